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

use crate::conformance::suite::{Ended, Failed, Keep, Passed, run_case, run_suite};

/// A queue, empty and opened with the settings that the constructor was given.
pub struct QueueUnderTest {
    /// The queue.
    pub queue: Arc<dyn Queue>,
    /// Sends a message of any text, as a stranger or another version would.
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
pub struct QueueCase {
    name: &'static str,
    settings: QueueSettings,
    run: fn(Arc<QueueUnderTest>) -> BoxFuture<'static, ()>,
}

/// Every case, each with a name that is a sentence.
pub fn queue_cases() -> Vec<QueueCase> {
    cases::all()
}

/// Runs every case, each against a queue of its own.
///
/// # Errors
/// The names of the cases that did not hold, each with the reason.
pub async fn exercise_queue<Open, Opening>(open: Open) -> Result<Passed, Failed>
where
    Open: Fn(QueueSettings) -> Opening + Sync,
    Opening: Future<Output = QueueUnderTest> + Send,
{
    let open = &open;
    let mut cases: Vec<(&'static str, BoxFuture<'_, Ended>)> = Vec::new();
    for case in queue_cases() {
        cases.push((case.name, Box::pin(async move { case.run(open(case.settings).await).await })));
    }
    run_suite("queue", cases).await
}

impl QueueCase {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its queue is to be opened with.
    pub fn settings(&self) -> QueueSettings {
        self.settings
    }

    /// Runs it.
    pub async fn run(&self, subject: QueueUnderTest) -> Ended {
        run_case((self.run)(Arc::new(subject))).await
    }
}
