//! Checks the model of the protocol in all its bounds, and that every variant that lacks a rule is
//! caught.

// What it prints is its result.
#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::Instant;

use rdev_lab::model::{Bounds, Protocol, Variant};
use stateright::{Checker, HasDiscoveries, Model};

fn main() -> ExitCode {
    let mut good = true;
    for bounds in Bounds::FULL {
        println!("{bounds:?}");
        good &= check(bounds, Variant::Protocol);
    }
    println!("without a rule, in {:?}", Bounds::CHAIN);
    for variant in Variant::BROKEN {
        good &= check(Bounds::CHAIN, variant);
    }
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Checks one variant and prints what was found. A broken one is left at its first discovery.
fn check(bounds: Bounds, variant: Variant) -> bool {
    let begun = Instant::now();
    let whole = variant == Variant::Protocol;
    let until = if whole { HasDiscoveries::All } else { HasDiscoveries::Any };
    let checker =
        Protocol { bounds, variant }.checker().threads(2).finish_when(until).spawn_bfs().join();
    let found = checker.discoveries();
    let mut names: Vec<_> = found.keys().copied().collect();
    names.sort_unstable();
    let as_it_should = names.is_empty() == whole;
    println!(
        "    {:<5} {variant:?}: {} states, depth {}, {:.1} s; broken: {names:?}",
        if as_it_should { "ok" } else { "WRONG" },
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
    );
    if whole {
        for (name, path) in found {
            println!("    {name}:");
            for (_, action) in path.into_vec() {
                println!("        {action:?}");
            }
        }
    }
    as_it_should
}
