//! Checks the models of the protocol in all their bounds, and that every variant that lacks a rule
//! is caught.

// What it prints is its result.
#![allow(clippy::print_stdout)]

use std::fmt::Debug;
use std::hash::Hash;
use std::process::ExitCode;
use std::time::Instant;

use rdev_lab::model::lineage::{self, Protocol};
use rdev_lab::model::queue::{self, Project};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    // Only those whose line has this text; all without one.
    let wanted = std::env::args().nth(1).unwrap_or_default();
    let asked_for = |line: &str| {
        let asked_for = line.contains(&wanted);
        if asked_for {
            println!("{line}");
        }
        asked_for
    };
    let mut good = true;
    for bounds in lineage::Bounds::FULL {
        if asked_for(&format!("lineage: {bounds:?}")) {
            good &= holds(Protocol::new(bounds, lineage::Variant::Protocol));
        }
    }
    for bounds in queue::Bounds::FULL {
        if asked_for(&format!("queue: {bounds:?}")) {
            good &= holds(Project::new(bounds, queue::Variant::Protocol));
        }
    }
    for variant in lineage::Variant::BROKEN {
        if asked_for(&format!("without a rule: {variant:?} in {:?}", variant.bounds())) {
            good &= is_caught(Protocol::new(variant.bounds(), variant));
        }
    }
    for variant in queue::Variant::BROKEN {
        if asked_for(&format!("without a rule: {variant:?} in {:?}", variant.bounds())) {
            good &= is_caught(Project::new(variant.bounds(), variant));
        }
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether every property holds in every state.
fn holds<M>(model: M) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + Debug + Hash + Send + Sync,
    M::Action: Clone + PartialEq + Debug + Send + Sync,
{
    check(model, HasDiscoveries::All, true)
}

/// Whether a property is broken. It is left there.
fn is_caught<M>(model: M) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + Debug + Hash + Send + Sync,
    M::Action: Clone + PartialEq + Debug + Send + Sync,
{
    check(model, HasDiscoveries::Any, false)
}

fn check<M>(model: M, until: HasDiscoveries, is_to_hold: bool) -> bool
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + PartialEq + Debug + Hash + Send + Sync,
    M::Action: Clone + PartialEq + Debug + Send + Sync,
{
    let begun = Instant::now();
    let checker = model.checker().threads(2).finish_when(until).spawn_bfs().join();
    let found = checker.discoveries();
    let mut names: Vec<_> = found.keys().copied().collect();
    names.sort_unstable();
    let good = names.is_empty() == is_to_hold;
    println!(
        "    {} {} states, depth {}, {:.1} s; broken: {names:?}",
        if good { "ok   " } else { "WRONG" },
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
    );
    if is_to_hold {
        for (name, path) in found {
            println!("    {name}:");
            for (_, action) in path.into_vec() {
                println!("        {action:?}");
            }
        }
    }
    good
}
