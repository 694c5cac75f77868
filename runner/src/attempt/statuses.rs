//! The commit statuses of an attempt on their way to the forge.
//!
//! They are optional: a forge that is down or slow neither delays nor fails a build. They are sent
//! one after the other, so that an earlier one never arrives last.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::ids::TaskId;
use rdev_domain::ports::{CommitStatus, PortError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::warn;

use crate::runner::context::RunnerContext;

/// The time limit for the forge.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The statuses that an attempt has set. What was not sent when the attempt ends is sent
/// afterwards.
#[derive(Debug, Default)]
pub(crate) struct Statuses(OnceLock<UnboundedSender<CommitStatus>>);

impl Statuses {
    /// Sets one, after those before it.
    pub(crate) fn set(&self, context: &Arc<RunnerContext>, task: TaskId, status: CommitStatus) {
        let sender = self.0.get_or_init(|| {
            let (sender, receiver) = unbounded_channel();
            context.in_background(send(Arc::clone(context), task, receiver));
            sender
        });
        // The receiver is there until the last sender is gone.
        let _ = sender.send(status);
    }
}

async fn send(
    context: Arc<RunnerContext>,
    task: TaskId,
    mut statuses: UnboundedReceiver<CommitStatus>,
) {
    let mut next = statuses.recv().await;
    while let Some(status) = next {
        let waiting = statuses.try_recv().ok();
        // Nobody needs to see what is out of date already.
        let out_of_date = waiting.as_ref().is_some_and(|newer| newer.commit == status.commit);
        if !out_of_date {
            let sent = context.ports.forge.set_status(&status);
            match tokio::time::timeout(TIMEOUT, sent).await {
                Ok(Ok(()) | Err(PortError::NotSupported { .. })) => {}
                Ok(Err(error)) => {
                    warn!(%task, error = chain(&error), "the commit status was not set on the forge");
                }
                Err(_) => warn!(%task, "the forge took too long to set the commit status"),
            }
        }
        next = match waiting {
            Some(newer) => Some(newer),
            None => statuses.recv().await,
        };
    }
}
