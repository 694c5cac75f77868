//! The commit statuses of an attempt on their way to the forge.
//!
//! What is to be shown is in the task's record ([`rdev_domain::commit_status`]). It is sent when the
//! store has taken the report that makes it true, beside everything else: a forge that is down or
//! slow neither delays nor fails a build. The statuses of an attempt are sent one after the other,
//! so that an earlier one never arrives last. A final one that the forge does not take is sent
//! again from the store.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::commit_status::send::{self, Place};
use rdev_domain::git::CommitId;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{CommitState, PortError, PortResult};
use rdev_domain::task::Task;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{info, warn};

use super::Attempt;
use crate::runner::context::RunnerContext;

/// The time limit for the forge. Two of them are less than
/// [`LONGEST_TRY`](rdev_domain::commit_status::LONGEST_TRY).
const TIMEOUT: Duration = Duration::from_secs(10);

/// The statuses that an attempt has set. What was not sent when the attempt ends is sent
/// afterwards.
#[derive(Debug, Default)]
pub(crate) struct Statuses {
    sender: OnceLock<UnboundedSender<Message>>,
    /// The newest one that needs no sending (any more).
    said: Mutex<Option<(CommitId, CommitState)>>,
    /// Where the repository is, if the forge has told that it is elsewhere.
    moved_to: OnceLock<GitUrl>,
}

/// A task whose status is to be shown.
#[derive(Debug)]
struct Message {
    task: Task,
    place: Place,
}

impl Statuses {
    /// Those of an attempt at this task. What earlier ones have said is not repeated.
    pub(crate) fn of(task: &Task) -> Self {
        Self { said: Mutex::new(word(task)), ..Self::default() }
    }

    /// The repository is there now.
    pub(crate) fn follow(&self, url: GitUrl) {
        // It moves once during an attempt, if at all; the sender follows it again.
        let _ = self.moved_to.set(url);
    }

    /// Shows what the task's record says, after what was shown before, unless that is the same.
    pub(crate) fn show(&self, attempt: &Attempt, task: &Task) {
        let word = word(task);
        {
            let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
            if word.is_none() || *said == word {
                return;
            }
            *said = word;
        }
        self.send(attempt, task);
    }

    /// Shows what the task's record says, whoever may have shown it before.
    pub(crate) fn send(&self, attempt: &Attempt, task: &Task) {
        let Some(place) = place(attempt) else { return };
        if task.commit_status.is_none() {
            return;
        }
        let context = &attempt.context;
        let sender = self.sender.get_or_init(|| {
            let (sender, receiver) = unbounded_channel();
            context.in_background(send_all(Arc::clone(context), receiver));
            sender
        });
        // The receiver is there until the last sender is gone.
        let _ = sender.send(Message { task: task.clone(), place });
    }
}

/// Whether the forge shows statuses at the commits of the attempt's repository.
pub(crate) fn are_shown(attempt: &Attempt) -> bool {
    let forge = &attempt.context.ports.forge;
    place(attempt).is_some_and(|place| forge.shows_statuses(&place.git_url))
}

fn place(attempt: &Attempt) -> Option<Place> {
    let place = Place::of(&attempt.project, &attempt.task)?;
    Some(match attempt.statuses.moved_to.get() {
        Some(git_url) => Place { git_url: git_url.clone(), ..place },
        None => place,
    })
}

fn word(task: &Task) -> Option<(CommitId, CommitState)> {
    let status = task.commit_status.as_ref()?;
    Some((status.commit.clone(), status.state))
}

async fn send_all(context: Arc<RunnerContext>, mut messages: UnboundedReceiver<Message>) {
    let mut next = messages.recv().await;
    while let Some(message) = next {
        let waiting = messages.try_recv().ok();
        let commit = |message: &Message| word(&message.task).map(|(commit, _)| commit);
        // Nobody needs to see what is out of date already.
        if waiting.as_ref().is_none_or(|newer| commit(newer) != commit(&message)) {
            send_one(&context, &message).await;
        }
        next = match waiting {
            Some(newer) => Some(newer),
            None => messages.recv().await,
        };
    }
}

async fn send_one(context: &RunnerContext, Message { task, place }: &Message) {
    let Some(status) = &task.commit_status else { return };
    let public_url = context.config.public_url.as_deref();
    let forge = &*context.ports.forge;
    let sent = async {
        if status.is_final() {
            return send::send_final(forge, task, place, public_url).await;
        }
        let message = send::message(task, status, place.git_url.clone(), public_url);
        forge.set_status(&message).await
    };
    let sent: PortResult<()> = tokio::time::timeout(TIMEOUT, sent)
        .await
        .unwrap_or(Err(PortError::TimedOut { what: "the forge" }));
    if !status.is_final() {
        if let Err(error) = sent {
            warn!(task = %task.id, error = chain(&error), "the commit status was not set on the forge");
        }
        return;
    }
    if let Err(error) = &sent {
        warn!(task = %task.id, error = chain(error), "the forge has not taken the build's commit status");
    }
    let recorded = send::record(&*context.ports.store, task, &sent, context.machine.now()).await;
    if let Err(error) = recorded {
        info!(task = %task.id, error = chain(&error), "what the forge shows was not recorded; the status is sent again");
    }
}
