//! Every state, every event: where it leads, or why it does not.

use rdev_domain::failure::FailureClass;
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::step::{Event, Refusal, Slots};
use rdev_domain::task::TaskState::{self, *};

use super::sample::{self, Case};

/// What is expected: the state after, and whether the task has a lease then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Held(TaskState),
    Free(TaskState),
    Refused(Refusal),
}

use To::{Free, Held, Refused};

const STALE: To = Refused(Refusal::Stale);

fn no(state: TaskState) -> To {
    Refused(Refusal::WrongState(state))
}

type Row = (&'static str, fn(&Case) -> Event, [To; 10]);

/// The columns of the table.
fn columns() -> [(&'static str, Case); 10] {
    [
        ("queued", Case::queued()),
        ("parked", Case::parked()),
        ("running", Case::running()),
        ("to be cancelled", Case::flagged()),
        ("pushing", Case::pushing()),
        ("unowned", Case::unowned()),
        ("succeeded", Case::succeeded()),
        ("failed", Case::failed()),
        ("cancelled", Case::cancelled()),
        ("last attempt", Case { task: last(Case::running().task), ..Case::running() }),
    ]
}

fn last(task: rdev_domain::task::Task) -> rdev_domain::task::Task {
    rdev_domain::task::Task { max_attempts: 1, ..task }
}

fn row(name: &'static str, event: fn(&Case) -> Event, live: [To; 6], last: To) -> Row {
    let [queued, parked, running, flagged, pushing, unowned] = live;
    let ended = |state| Refused(Refusal::Ended(state));
    let ends = [ended(Succeeded), ended(Failed), ended(Cancelled)];
    let all = [queued, parked, running, flagged, pushing, unowned, ends[0], ends[1], ends[2], last];
    (name, event, all)
}

fn with_holder(case: &Case, event: impl FnOnce(Holder) -> Event) -> Event {
    event(case.holder())
}

fn rows() -> Vec<Row> {
    vec![
        // Each: queued, parked, running, to be cancelled, pushing, unowned; then running in the
        // last attempt.
        row(
            "claim",
            |_| sample::claim(7, Slots { taken: 2, limit: 3 }),
            [
                Held(Running),
                Refused(Refusal::NotDue),
                no(Running),
                no(Running),
                no(Pushing),
                Held(Pushing),
            ],
            no(Running),
        ),
        row(
            "claim without a free slot",
            |_| sample::claim(7, Slots { taken: 3, limit: 3 }),
            [
                Refused(Refusal::SlotsTaken),
                Refused(Refusal::NotDue),
                no(Running),
                no(Running),
                no(Pushing),
                Refused(Refusal::SlotsTaken),
            ],
            no(Running),
        ),
        row(
            "claim with a lowered limit",
            |_| sample::claim(7, Slots { taken: 3, limit: 1 }),
            [
                Refused(Refusal::SlotsTaken),
                Refused(Refusal::NotDue),
                no(Running),
                no(Running),
                no(Pushing),
                Refused(Refusal::SlotsTaken),
            ],
            no(Running),
        ),
        row(
            "prepare",
            |case| with_holder(case, |holder| sample::prepare(holder, &case.task, sample::NOW)),
            [STALE, STALE, Held(Pushing), Refused(Refusal::CancelRequested), Held(Pushing), STALE],
            Held(Pushing),
        ),
        row(
            "finish",
            |case| with_holder(case, sample::finish),
            [STALE, STALE, Free(Succeeded), Free(Cancelled), no(Pushing), STALE],
            Free(Succeeded),
        ),
        row(
            "complete",
            |case| with_holder(case, sample::complete),
            [STALE, STALE, no(Running), no(Running), Free(Succeeded), STALE],
            no(Running),
        ),
        row(
            "fail, may pass",
            |case| with_holder(case, |holder| sample::fail(holder, FailureClass::Infra)),
            [STALE, STALE, Free(Queued), Free(Cancelled), Free(Pushing), STALE],
            Free(Failed),
        ),
        row(
            "fail permanently",
            |case| with_holder(case, |holder| sample::fail(holder, FailureClass::Invalid)),
            [STALE, STALE, Free(Failed), Free(Cancelled), Free(Failed), STALE],
            Free(Failed),
        ),
        row(
            "park",
            |case| with_holder(case, |holder| sample::fail(holder, FailureClass::Quota)),
            [STALE, STALE, Free(Queued), Free(Cancelled), Free(Pushing), STALE],
            Free(Queued),
        ),
        row(
            "conflict",
            |case| with_holder(case, |holder| sample::fail(holder, FailureClass::Conflict)),
            [STALE, STALE, Free(Queued), Free(Cancelled), Free(Queued), STALE],
            Free(Failed),
        ),
        row(
            "release",
            |case| with_holder(case, |holder| Event::Release { holder }),
            [STALE, STALE, Free(Queued), Free(Cancelled), Free(Pushing), STALE],
            Free(Queued),
        ),
        row(
            "restart",
            |case| with_holder(case, |holder| Event::Restart { holder }),
            [STALE, STALE, no(Running), no(Running), Free(Queued), STALE],
            no(Running),
        ),
        row(
            "cancel",
            |_| Event::Cancel,
            [
                Free(Cancelled),
                Free(Cancelled),
                Held(Running),
                Held(Running),
                no(Pushing),
                no(Pushing),
            ],
            Held(Running),
        ),
        row(
            "recover the living",
            |case| recover(case, false),
            [
                STALE,
                STALE,
                Refused(Refusal::Alive),
                Refused(Refusal::Alive),
                Refused(Refusal::Alive),
                STALE,
            ],
            Refused(Refusal::Alive),
        ),
        row(
            "recover the dead",
            |case| recover(case, true),
            [STALE, STALE, Free(Queued), Free(Cancelled), Free(Pushing), STALE],
            Free(Failed),
        ),
    ]
}

fn recover(case: &Case, proved_dead: bool) -> Event {
    let heartbeat = case.lease.as_ref().map_or(0, |lease| lease.heartbeat);
    Event::Recover { seen: case.task.fence, heartbeat, proved_dead }
}

#[test]
fn every_event_leads_from_every_state_where_the_table_says() {
    for (name, event, expected) in rows() {
        for ((state, case), expected) in columns().into_iter().zip(expected) {
            let to = match case.step(event(&case)) {
                Ok(step) if step.lease.is_some() => Held(step.task.state),
                Ok(step) => Free(step.task.state),
                Err(refusal) => Refused(refusal),
            };
            assert_eq!(to, expected, "{name}, {state}");
        }
    }
}

#[test]
fn the_samples_are_in_the_states_they_are_called_after() {
    let states: Vec<_> =
        columns().into_iter().map(|(_, case)| (case.task.state, case.lease.is_some())).collect();
    let expected = [
        (Queued, false),
        (Queued, false),
        (Running, true),
        (Running, true),
        (Pushing, true),
        (Pushing, false),
        (Succeeded, false),
        (Failed, false),
        (Cancelled, false),
        (Running, true),
    ];
    assert_eq!(states, expected);
}

#[test]
fn no_event_of_another_process_changes_a_held_task() {
    for case in [Case::running(), Case::flagged(), Case::pushing()] {
        let right = case.holder();
        let old = Holder { fence: rdev_domain::ids::Fence(0), ..right.clone() };
        let later = Holder { fence: right.fence.next(), ..right.clone() };
        let other = Holder { owner: sample::owner(42), ..right };
        for foreign in [old, later, other] {
            let mut writes = vec![
                sample::prepare(foreign.clone(), &case.task, sample::NOW),
                sample::finish(foreign.clone()),
                sample::complete(foreign.clone()),
                Event::Release { holder: foreign.clone() },
                Event::Restart { holder: foreign.clone() },
            ];
            writes.extend(FailureClass::ALL.map(|class| sample::fail(foreign.clone(), class)));
            for write in writes {
                assert_eq!(case.step(write.clone()), Err(Refusal::Stale), "{write:?}");
            }
            let lease = case.lease.as_ref().expect("it is held");
            assert_eq!(
                lease.renewed(&foreign, Progress::default(), sample::NOW),
                Err(Refusal::Stale)
            );
        }
    }
}

#[test]
fn a_lease_is_over_when_clocks_that_differ_agree_that_it_is() {
    let case = Case::running();
    let lease = case.lease.expect("it is held");
    let after = |seconds| sample::NOW.plus(std::time::Duration::from_secs(seconds));
    assert_eq!(lease.until, after(45));
    assert!(!lease.expired(after(46)) && !lease.expired(after(60)));
    assert!(lease.expired(after(60).plus(std::time::Duration::from_millis(1))));
}
