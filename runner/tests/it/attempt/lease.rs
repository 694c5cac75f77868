//! What an attempt says of its lease.

use std::io::Write;
use std::sync::{Arc, Mutex};

use crate::world::World;

/// What a runner has logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nobody panicked")).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("nobody panicked").write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_lease_is_called_lost_that_ended_with_its_attempt() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    // With one subscriber alone in the process, a line that another thread logs first, which has none,
    // counts as wanted by nobody.
    let other = tracing_subscriber::fmt().with_writer(std::io::sink).finish();
    let _other = tracing::Dispatch::new(other);
    // The tasks of the runner are on this thread.
    let _subscribed = tracing::subscriber::set_default(subscriber);
    let mut world = World::new();
    // Each event is written at once: a renewal waits for its turn while the end is reported.
    world.config.runner.event_flush_ms = 0;
    let site = world.project("site", &[("a", "1\n")]).await;
    let running = world.run();
    for n in 0..10 {
        let id = world.build(&site, &format!("echo {n} >> b")).await;
        world.succeeded(id).await;
    }
    running.stop().await;
    let log = log.text();
    assert!(log.contains("the task succeeded"), "{log}");
    assert!(!log.contains("the lease is lost"), "{log}");
}
