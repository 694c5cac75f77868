//! The conformance suites of the ports, on the adapters in memory. Each case is a test of its own.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rdev_domain::retention::Retention;
use rdev_domain::spec::AgentName;
use rdev_lab::memory::{MemoryQueue, MemoryStore, QueueOptions};
use rdev_testkit::conformance::AT_ONCE;
use rdev_testkit::conformance::queue::{self, QueueSettings, QueueUnderTest};
use rdev_testkit::conformance::store::{self, StoreUnderTest};
use rdev_testkit::tools::trial;

fn main() -> ExitCode {
    let store = store::trials(async |retention| Ok(open_store(retention)));
    let queue = queue::trials(async |settings| Ok(open_queue(settings)));
    // Without this count no test would notice a case that is no longer listed.
    assert!(store.len() > 215 && queue.len() > 20, "{} and {}", store.len(), queue.len());
    trial::run(Some(AT_ONCE), [store, queue])
}

fn open_store(retention: Retention) -> StoreUnderTest {
    let store = Arc::new(MemoryStore::new(retention));
    let (damaged, shared) = (store.clone(), store.clone());
    StoreUnderTest {
        store: store.clone(),
        with_format: Arc::new(move |format| Arc::new(shared.with_format(format))),
        // Nothing in memory has a part of its own that could be damaged: all of it is.
        damage: Arc::new(move |task, _| {
            damaged.replace_record(task, "build", "damaged");
            Box::pin(async {})
        }),
        replace_record: Arc::new(move |task, kind, body| {
            store.replace_record(task, kind, &body);
            Box::pin(async {})
        }),
        sweep_deletes: true,
        recovers_all: true,
        keep: Box::new(()),
    }
}

fn open_queue(settings: QueueSettings) -> QueueUnderTest {
    let QueueSettings { visibility, max_receives } = settings;
    let own_queues = [AgentName::Codex].into();
    let options = QueueOptions { visibility, max_receives, own_queues, ..QueueOptions::default() };
    let queue = Arc::new(MemoryQueue::new(options));
    QueueUnderTest {
        queue: queue.clone(),
        of_codex: Some(Arc::new(queue.of(AgentName::Codex))),
        send_raw: Arc::new(move |body| {
            queue.send_text(body, Duration::ZERO);
            Box::pin(async {})
        }),
        stale_receipts_do_nothing: true,
        keep: Box::new(()),
    }
}
