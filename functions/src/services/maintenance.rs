//! What runs on a schedule: the sweep, every minute, and the recording of
//! dead letters (steps 11 and 12 of `docs/protocol.md`). `rdev up` has a timer for it, AWS
//! a scheduled function and one that the dead-letter queue calls.

use std::time::{Duration, Instant};

use rdev_domain::audit::Actor;
use rdev_domain::ports::{DeadLetter, DeadMessage, PortError, PortResult, Queue, Store};
use rdev_domain::project::Project;
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::{Undecodable, WakeUp};
use rdev_domain::{chain, outbox};
use sha2::{Digest, Sha256};
use tracing::{info, warn};
use ulid::Ulid;

use crate::app::{App, Context};
use crate::services::projects;

/// How many dead messages are received at once.
const BATCH: u32 = 10;

/// For how long a sweep begins to end deletions.
const DELETIONS: Duration = Duration::from_secs(60);

/// How much of a dead message's body is stored.
const MAX_BODY_BYTES: usize = 16 * 1024;

/// Runs the sweep to its end, and ends deletions of projects that were cut short. `clock` is read
/// for each page.
///
/// # Errors
/// The first error of store or queue; the next sweep does the rest. A deletion that fails is no
/// error: it is logged, and a later sweep tries it again.
pub async fn sweep(context: &Context, clock: impl Fn() -> Timestamp) -> PortResult<()> {
    let deleting = sweep_store(&*context.store, &*context.queue, &clock).await?;
    // Last: other systems may take long to answer.
    end_deletions(&App::new(context.clone()), deleting, clock).await;
    Ok(())
}

/// Runs the sweep of the store to its end, and sends the wake-ups that it finds missing. Returns
/// the projects whose deletion was cut short.
///
/// # Errors
/// The first error of store or queue; the next sweep does the rest.
pub async fn sweep_store(
    store: &dyn Store,
    queue: &dyn Queue,
    clock: impl Fn() -> Timestamp,
) -> PortResult<Vec<Project>> {
    let mut deleting = Vec::new();
    loop {
        let swept = store.sweep(clock()).await?;
        if swept.recovered > 0 || swept.offline > 0 {
            info!(recovered = swept.recovered, offline = swept.offline, "swept");
        }
        outbox::send(store, queue, &swept.outbox, clock()).await?;
        for wake_up in swept.wake {
            queue.send(&wake_up, Duration::ZERO).await?;
        }
        deleting.extend(swept.deleting);
        if !swept.more {
            return Ok(deleting);
        }
    }
}

/// Ends deletions, each for itself, for at most [`DELETIONS`]: the store offers the others again.
async fn end_deletions(app: &App, projects: Vec<Project>, clock: impl Fn() -> Timestamp) {
    let begun = Instant::now();
    for project in projects {
        if begun.elapsed() > DELETIONS {
            return;
        }
        let id = project.id.clone();
        match projects::end_deletion(app, &Actor::maintenance(), &project, clock()).await {
            Ok(()) => info!(project = %id, "ended a deletion that was cut short"),
            Err(error) => warn!(error = %chain(&error), project = %id,
                "a deletion that was cut short could not be ended; a later sweep tries again"),
        }
    }
}

/// Moves the messages of the dead-letter queue into the store. A message that can be
/// decoded gets a fresh wake-up if its project exists; no task changes.
///
/// # Errors
/// The first error of store or queue; the other messages stay in the dead-letter queue.
pub async fn dead_letters(
    store: &dyn Store,
    queue: &dyn Queue,
    clock: impl Fn() -> Timestamp,
) -> PortResult<()> {
    loop {
        let messages = queue.receive_dead(BATCH).await?;
        if messages.is_empty() {
            return Ok(());
        }
        for message in messages {
            record(store, queue, &message, clock()).await?;
            queue.delete_dead(&message.receipt).await?;
        }
    }
}

/// Records one dead message; recording it again changes nothing. The caller deletes it.
///
/// # Errors
/// The first error of store or queue; the message is to be recorded again.
pub async fn record(
    store: &dyn Store,
    queue: &dyn Queue,
    message: &DeadMessage,
    now: Timestamp,
) -> PortResult<()> {
    let (letter, wake_up) = letter(message, now);
    warn!(letter = %letter.id, reason = letter.reason, "a message could not be delivered");
    store.record_dead_letter(&letter).await?;
    let Some(wake_up) = wake_up else { return Ok(()) };
    match store.project(&wake_up.project_id).await {
        Ok(_) => queue.send(&wake_up, Duration::ZERO).await,
        Err(PortError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The record of a dead message: the same however often it is received.
fn letter(message: &DeadMessage, now: Timestamp) -> (DeadLetter, Option<WakeUp>) {
    let wake_up = WakeUp::decode(&message.body);
    let reason = match &wake_up {
        Ok(_) => "undelivered",
        Err(Undecodable::Garbage) => "garbage",
        Err(Undecodable::UnknownVersion(_)) => "unknown_version",
    };
    let sent_at = message.sent_at.as_millis();
    let digest = Sha256::digest(format!("{sent_at}/{}", message.body));
    let random = digest[..10].iter().fold(0_u128, |sum, byte| sum << 8 | u128::from(*byte));
    let wake_up = wake_up.ok();
    let letter = DeadLetter {
        id: Ulid::from_parts(u64::try_from(sent_at).unwrap_or(0), random),
        at: now,
        body: message.body[..message.body.floor_char_boundary(MAX_BODY_BYTES)].to_owned(),
        reason: reason.to_owned(),
        project_id: wake_up.as_ref().map(|wake_up| wake_up.project_id.clone()),
        receive_count: message.receive_count,
    };
    (letter, wake_up)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rdev_domain::page::Page;
    use rdev_domain::ports::Receipt;
    use rdev_domain::spec::AgentName;

    use super::*;
    use crate::clock::now;

    fn project(name: &str) -> Project {
        Project::new(name.parse().expect("a slug"), Ulid::from_datetime(SystemTime::now()), now())
    }

    #[tokio::test]
    async fn dead_messages_are_recorded_and_only_existing_projects_are_woken_again() {
        let folder = tempfile::tempdir().expect("a folder");
        // Every message dies after its first delivery.
        let options = rdev_embedded::Options {
            visibility: Duration::ZERO,
            max_receives: 1,
            ..rdev_embedded::Options::default()
        };
        let embedded = rdev_embedded::open(folder.path(), options).expect("opened");
        let (store, queue) = (&*embedded.store, &*embedded.queue);
        let there = project("there");
        store.create_project(&there, &Actor::maintenance(), now()).await.expect("created");
        let agent = Some(AgentName::Codex);
        for project_id in [there.id.clone(), "gone".parse().expect("a slug")] {
            queue.send(&WakeUp { project_id, agent }, Duration::ZERO).await.expect("sent");
            assert!(queue.receive(Duration::ZERO).await.expect("received").is_some());
        }
        dead_letters(store, queue, now).await.expect("done");

        let letters = store.dead_letters(&Page { limit: 100, before: None }).await.expect("listed");
        let mut recorded: Vec<(&str, &str)> = letters
            .items
            .iter()
            .map(|letter| {
                let project = letter.project_id.as_ref().map_or("", |id| id.as_str());
                (project, letter.reason.as_str())
            })
            .collect();
        recorded.sort_unstable();
        assert_eq!(recorded, [("gone", "undelivered"), ("there", "undelivered")]);
        let woken = queue.receive(Duration::ZERO).await.expect("received").expect("a wake-up");
        assert_eq!(woken.body, Ok(WakeUp { project_id: there.id, agent }));
        assert_eq!(queue.stats().await.expect("counted").visible, 0);
    }

    fn message(body: &str, receipt: &str) -> DeadMessage {
        let sent_at = Timestamp::from_millis(1_795_424_624_940);
        DeadMessage {
            receipt: Receipt(receipt.into()),
            body: body.into(),
            receive_count: 10,
            sent_at,
        }
    }

    #[test]
    fn a_dead_message_has_one_record_however_often_it_is_received() {
        let first = letter(&message("x", "1.1"), Timestamp::from_millis(1)).0;
        assert_eq!(first.id, letter(&message("x", "1.2"), Timestamp::from_millis(2)).0.id);
        assert_ne!(first.id, letter(&message("y", "1.1"), Timestamp::from_millis(1)).0.id);
        assert_eq!(first.id.timestamp_ms(), 1_795_424_624_940);
    }

    #[test]
    fn a_record_has_the_reason_and_the_beginning_of_the_message() {
        let now = Timestamp::from_millis(0);
        let of = |body: &str| letter(&message(body, "1.1"), now).0;
        assert_eq!(of("x").reason, "garbage");
        assert_eq!(of(r#"{"v":2}"#).reason, "unknown_version");
        let known = of(r#"{"v":1,"project_id":"site"}"#);
        assert_eq!(known.reason, "undelivered");
        assert_eq!(known.project_id.map(String::from), Some("site".to_owned()));
        assert_eq!(of(&"é".repeat(20_000)).body.len(), MAX_BODY_BYTES);
    }
}
