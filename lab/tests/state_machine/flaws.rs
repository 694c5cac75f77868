//! Rules that a store may break. Each is broken by changing the calls of a store that keeps it.

use rdev_domain::audit::Actor;
use rdev_domain::lease::Holder;
use rdev_domain::ports::Store;
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_domain::time::Timestamp;

use super::call::{Call, Outbox};

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Flaw {
    /// A write passes whatever fence and owner it names.
    NoFence,
    /// A lease is recovered before its end.
    LivingLeases,
    /// The clock's slack is not waited for.
    NoSlack,
    /// A retry is not recorded on the task that it retries.
    ForgottenRetry,
    /// A runner gets what it has no agent for.
    AnyAgent,
    /// A priority is ignored.
    NoPriority,
    /// Outbox entries are returned and not kept.
    LostOutbox,
    /// A renewal loses its events.
    LostEvents,
    /// A diff is lost.
    LostDiff,
    /// The end of a task is not announced.
    LostDelivery,
    /// What the forge is to show is forgotten.
    LostStatus,
    /// A project is deleted while its tasks run.
    DeletedWhileRunning,
    /// An end by a stranger's name.
    WrongActor,
}

pub(crate) const ALL: [Flaw; 13] = [
    Flaw::NoFence,
    Flaw::LivingLeases,
    Flaw::NoSlack,
    Flaw::ForgottenRetry,
    Flaw::AnyAgent,
    Flaw::NoPriority,
    Flaw::LostOutbox,
    Flaw::LostEvents,
    Flaw::LostDiff,
    Flaw::LostDelivery,
    Flaw::LostStatus,
    Flaw::DeletedWhileRunning,
    Flaw::WrongActor,
];

/// The call that a store with the flaw executes in place of `call`.
pub(crate) async fn flawed_call(
    flaw: Flaw,
    store: &dyn Store,
    call: &Call,
    now: &mut Timestamp,
) -> Call {
    let mut call = call.clone();
    match (flaw, &mut call) {
        (Flaw::NoFence, Call::Renew(task, holder, ..)) => {
            if let Ok(there) = store.task(*task).await
                && let Some(lease) = there.lease
            {
                *holder = Holder { fence: lease.fence, owner: lease.owner };
            }
        }
        (Flaw::LivingLeases, Call::Advance(_, Event::Recover { proved_dead, .. }, ..)) => {
            *proved_dead = true;
        }
        (Flaw::NoSlack, Call::Sweep { .. }) => *now = now.plus(rdev_domain::lease::CLOCK_SLACK),
        (Flaw::ForgottenRetry, Call::Enqueue(Task { retry_of, .. })) => *retry_of = None,
        (Flaw::AnyAgent, Call::Claim(.., can)) => can.agents = AgentName::ALL.to_vec(),
        (Flaw::NoPriority, Call::Enqueue(task)) => task.priority = Default::default(),
        (Flaw::LostEvents, Call::Renew(_, _, events, ..)) => events.clear(),
        (Flaw::LostDiff, Call::Advance(_, _, record, _)) => record.diff = None,
        (Flaw::LostDelivery, Call::Enqueue(task)) => task.notify = false,
        (Flaw::LostStatus, Call::Advance(_, _, record, _)) => record.shows_status = false,
        (Flaw::WrongActor, Call::Advance(.., by)) => *by = Actor::maintenance(),
        (Flaw::DeletedWhileRunning, Call::BeginDelete(id)) => {
            // What runs is ended first.
            let _ = (id, store.recover_all(*now).await);
        }
        _ => {}
    }
    call
}

/// What a store with the flaw does after a call.
pub(crate) async fn flawed_end(flaw: Flaw, store: &dyn Store, outbox: &Outbox) {
    if flaw == Flaw::LostOutbox {
        let deleted = store.delete_outbox(outbox).await;
        assert!(deleted.is_ok(), "the store in memory answers");
    }
}
