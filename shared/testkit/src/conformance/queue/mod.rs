//! The conformance suite of [`Queue`]: SQS's promises, and no others.
//!
//! A queue has a clock of its own, so the cases wait by long polling with a
//! deadline and open their queues with a short visibility.

mod cases;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use rdev_domain::ports::Queue;

use super::suite::{self, Keep};
use crate::tools::needs::NotRun;
use crate::tools::trial::Trial;

/// A queue, empty and opened with the settings that the constructor was given.
pub struct QueueUnderTest {
    /// As a runner has it that receives from the default queue.
    pub queue: Arc<dyn Queue>,
    /// As a runner has it that receives from the queue that Codex has for itself. `None` where
    /// there is one queue for all agents.
    pub of_codex: Option<Arc<dyn Queue>>,
    /// Sends a message of any text, as another program or another version would.
    pub send_raw: SendRaw,
    /// A stale receipt deletes and hides nothing that was delivered again since.
    /// `false` where that cannot be promised (SQS: it *may* not delete): then it is
    /// held only to never failing.
    pub stale_receipts_do_nothing: bool,
    /// What must outlive the queue's use.
    pub keep: Keep,
}

/// Sends a message of any text.
pub type SendRaw = Arc<dyn Fn(String) -> BoxFuture<'static, ()> + Send + Sync>;

/// What a queue is to be opened with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// How long a received message stays invisible, in the dead-letter queue too. Whole seconds.
    pub visibility: Duration,
    /// How often a message is received before it goes to the dead-letter queue.
    pub max_receives: u32,
}

/// One case of the suite.
struct QueueCase {
    name: &'static str,
    settings: QueueSettings,
    run: fn(Arc<QueueUnderTest>) -> BoxFuture<'static, ()>,
}

/// Every case as a trial named `queue::<case>`. `open` opens an empty queue with the settings
/// that it is given.
pub fn trials<Open, Opening>(open: Open) -> Vec<Trial>
where
    Open: Fn(QueueSettings) -> Opening + Clone + Send + 'static,
    Opening: Future<Output = Result<QueueUnderTest, NotRun>>,
{
    let trial = |QueueCase { name, settings, run }| {
        let open = open.clone();
        let run = move |subject| run(Arc::new(subject));
        suite::trial(format!("queue::{name}"), move || open(settings), run)
    };
    cases::all().into_iter().map(trial).collect()
}
