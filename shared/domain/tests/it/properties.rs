//! Whatever happens to a project, in whatever order, keeps the protocol.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use rdev_domain::failure::FailureClass;
use rdev_domain::task::TaskState;

use super::model::{Action, Model, RecoveredLease, Who, Write};

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        6 => Just(Who::Holder),
        1 => (0..8_usize).prop_map(Who::Earlier),
        1 => Just(Who::OtherOwner),
        1 => (0..8_u64).prop_map(Who::OtherFence),
    ]
}

fn write() -> impl Strategy<Value = Write> {
    let class = proptest::sample::select(FailureClass::ALL.to_vec());
    let after = proptest::option::of(0..20_000_u64);
    prop_oneof![
        5 => (0..4_u64, 0..4_u64).prop_map(|(base, commit)| Write::Prepare { base, commit }),
        1 => Just(Write::Finish),
        2 => Just(Write::Complete),
        4 => (class, after).prop_map(|(class, retry_after_s)| Write::Fail { class, retry_after_s }),
        2 => Just(Write::Release),
        1 => Just(Write::Restart),
    ]
}

fn seen() -> impl Strategy<Value = RecoveredLease> {
    prop_oneof![
        3 => Just(RecoveredLease::AsItIs),
        1 => Just(RecoveredLease::ProvedDead),
        1 => Just(RecoveredLease::OldHeartbeat),
        1 => Just(RecoveredLease::OldFence),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let task = || 0..6_usize;
    prop_oneof![
        2 => (1..=4_u32).prop_map(|max_attempts| Action::Enqueue { max_attempts }),
        8 => (task(), 0..3_u64).prop_map(|(task, worker)| Action::Claim { task, worker }),
        10 => (task(), who(), write()).prop_map(|(task, who, what)| Action::Write { task, who, what }),
        2 => (task(), who()).prop_map(|(task, who)| Action::Renew { task, who }),
        1 => task().prop_map(|task| Action::Cancel { task }),
        3 => (task(), seen()).prop_map(|(task, seen)| Action::Recover { task, seen }),
        1 => task().prop_map(|task| Action::Retry { task }),
        1 => (0..5_u32).prop_map(|limit| Action::Limit { limit }),
        4 => proptest::sample::select(vec![0, 1, 20, 46, 61, 400, 1000, 7300])
            .prop_map(|seconds| Action::Pass { seconds }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_sequence_of_events_breaks_the_protocol(actions in vec(action(), 1..120)) {
        let mut model = Model::new();
        for action in &actions {
            model.act(action);
        }
    }

    #[test]
    fn from_wherever_it_stands_every_task_can_come_to_its_end(actions in vec(action(), 1..80)) {
        let mut model = Model::new();
        for action in &actions {
            model.act(action);
        }
        model.drain();
    }
}

/// The properties above would say nothing if the sequences never got far.
#[test]
fn the_sequences_reach_every_state() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut reached = [0_usize; 6];
    for _ in 0..300 {
        let actions = vec(action(), 1..120).new_tree(&mut runner).expect("a sequence").current();
        let mut model = Model::new();
        for action in &actions {
            model.act(action);
            for (state, reached) in TaskState::ALL.into_iter().zip(&mut reached) {
                *reached += model.count(state);
            }
        }
    }
    for (state, reached) in TaskState::ALL.into_iter().zip(reached) {
        assert!(reached > 300, "{state:?} was seen {reached} times");
    }
}
