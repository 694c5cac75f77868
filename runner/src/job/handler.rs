//! The trait that each task type of the runner implements, in a file of its own.

use async_trait::async_trait;
use rdev_domain::failure::FailureClass;
use rdev_domain::spec::UnreadableSpec;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;

/// Works on tasks of one type.
#[async_trait]
pub(crate) trait TaskHandler: Send + Sync {
    /// Runs one attempt of the task. A task that is already `pushing` is resumed.
    async fn run(&self, attempt: &Attempt) -> Result<Settlement, Interrupt>;
}

/// Refuses tasks of a type that this program does not know. The store ends them before a runner
/// claims them.
pub(super) struct UnreadableHandler<'a>(pub(super) &'a UnreadableSpec);

#[async_trait]
impl TaskHandler for UnreadableHandler<'_> {
    async fn run(&self, _: &Attempt) -> Result<Settlement, Interrupt> {
        let message = format!("the task type {:?} is not known", self.0.kind);
        Err(Interrupt::failed(FailureClass::Poison, message))
    }
}
