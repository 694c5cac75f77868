//! The trait that each task type of the runner implements, in a file of its own.

use async_trait::async_trait;

use crate::attempt::Attempt;
use crate::attempt::interrupt::Interrupt;
use crate::attempt::settle::Settlement;

/// Works on tasks of one type.
#[async_trait]
pub(crate) trait TaskHandler: Send + Sync {
    /// Runs one attempt of the task. A task that is already `pushing` is resumed.
    async fn run(&self, attempt: &Attempt) -> Result<Settlement, Interrupt>;
}
