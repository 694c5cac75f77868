//! The models in small bounds: the protocol holds, and each variant that lacks a rule is caught.

use std::fmt::Debug;
use std::hash::Hash;

use rdev_lab::model::lineage::{self, Protocol};
use rdev_lab::model::queue::{self, Project};
use stateright::{Checker, HasDiscoveries, Model};

/// Visits every state, of which there are more than `states`.
fn holds<M>(model: M, states: usize)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + Debug + Hash + Send + Sync,
    M::Action: Clone + PartialEq + Debug + Send + Sync,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    assert!(checker.unique_state_count() > states, "{}", checker.unique_state_count());
    checker.assert_properties();
}

/// Whether a property is broken.
fn is_caught<M>(model: M) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + Debug + Hash + Send + Sync,
    M::Action: Clone + PartialEq + Debug + Send + Sync,
{
    let caught = model.checker().threads(2).finish_when(HasDiscoveries::Any).spawn_bfs().join();
    !caught.discoveries().is_empty()
}

#[test]
fn a_lineage_keeps_the_promise_in_every_state() {
    holds(Protocol::new(lineage::Bounds::TINY, lineage::Variant::Protocol), 100_000);
}

#[test]
fn a_lineage_keeps_the_promise_while_its_work_is_verified_after_its_ticket_is_written() {
    holds(Protocol::new(lineage::Bounds::VERIFIED, lineage::Variant::Protocol), 500_000);
}

#[test]
fn a_lineage_keeps_the_promise_in_a_folder() {
    holds(Protocol::new(lineage::Bounds::FOLDER, lineage::Variant::Protocol), 80_000);
}

#[test]
fn a_lineage_lands_once_on_a_server_that_moves_one_ref_at_a_time() {
    holds(Protocol::new(lineage::Bounds::BRANCH_ALONE, lineage::Variant::Protocol), 50_000);
}

#[test]
fn what_ends_without_doubt_has_not_landed_on_such_a_server_whatever_people_do() {
    let bounds = lineage::Bounds::BRANCH_ALONE_REWRITTEN;
    holds(Protocol::new(bounds, lineage::Variant::Protocol), 50_000);
}

#[test]
fn the_tasks_of_a_project_keep_their_slots_and_end_in_every_state() {
    holds(Project::new(queue::Bounds::TINY, queue::Variant::Protocol), 1_000);
}

#[test]
fn the_tasks_of_a_project_end_without_a_sweep_where_the_queue_loses_nothing() {
    holds(Project::new(queue::Bounds::GOOD, queue::Variant::Protocol), 1_000);
}

#[test]
fn each_variant_that_lacks_a_rule_of_a_lineage_is_caught() {
    for variant in lineage::Variant::BROKEN {
        assert!(is_caught(Protocol::new(variant.bounds(), variant)), "{variant:?} was not caught");
    }
}

#[test]
fn each_variant_that_lacks_a_rule_of_the_queue_is_caught() {
    for variant in queue::Variant::BROKEN {
        assert!(is_caught(Project::new(variant.bounds(), variant)), "{variant:?} was not caught");
    }
}
