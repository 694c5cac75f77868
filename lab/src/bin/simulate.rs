//! Simulates schedules of the runner's real code, and prints what broke and how to see it again.
//!
//! `--seed S` runs one schedule and prints everything that happened in it; with `--schedules N` it
//! runs N of them from there on. `--hours H --faults P` is one long one, in which P of 100 calls
//! go wrong. `--without R` leaves a rule out, to see whether that is noticed: 1 the ticket, 2 the
//! fence, 3 the sweep. The fence is not: the ticket alone keeps the promise that is checked.

#![allow(clippy::print_stdout)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use rdev_lab::simulation::{Broken, Campaign, Fault, Plan, replay_command, run, run_many};

fn main() -> ExitCode {
    let names = ["--seed", "--schedules", "--hours", "--faults", "--without"];
    let mut given = names.map(|name| (name, None));
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for pair in arguments.chunks(2) {
        let slot = given.iter_mut().find(|(name, _)| pair[0] == *name);
        let number = pair.get(1).and_then(|number| number.parse::<u64>().ok());
        match (slot, number) {
            (Some((_, slot)), Some(number)) => *slot = Some(number),
            _ => {
                println!(
                    "usage: simulate [--seed S] [--schedules N | --hours H [--faults P]] [--without R]"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    let [(_, seed), (_, schedules), (_, hours), (_, faults), (_, without)] = given;
    let broken = match without {
        None => None,
        Some(1) => Some(Broken::TicketIgnored),
        Some(2) => Some(Broken::FenceIgnored),
        Some(3) => Some(Broken::NoSweep),
        Some(_) => Some(Broken::UnverifiedForgotten),
    };
    let plan_of = |seed| Plan { broken, ..Plan::of(seed) };
    let begun = Instant::now();
    let campaign = match (schedules, hours, seed) {
        (None, Some(hours), seed) => {
            let seed = seed.unwrap_or(1);
            let span = Duration::from_secs(hours * 3600);
            let per_mille = u32::try_from(10 * faults.unwrap_or(5)).unwrap_or(1000);
            let mut campaign = Campaign::default();
            campaign.add(seed, run(Plan::long(seed, span, per_mille), false));
            campaign
        }
        (None, None, Some(seed)) => {
            let outcome = run(plan_of(seed), true);
            outcome.trace.iter().for_each(|line| println!("{line}"));
            let mut campaign = Campaign::default();
            campaign.add(seed, outcome);
            campaign
        }
        (schedules, _, seed) => {
            run_many(seed.unwrap_or(1), schedules.unwrap_or(1_000_000), plan_of)
        }
    };
    print(&campaign, begun.elapsed(), hours.is_some());
    if campaign.broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(campaign: &Campaign, took: Duration, long: bool) {
    for fault in Fault::ALL {
        println!("{:>10} {fault:?}", campaign.counts.of(fault));
    }
    for (seed, violations) in &campaign.broken {
        violations.iter().for_each(|what| println!("seed {seed}: {what}"));
        if !long {
            println!("replay with: {}", replay_command(*seed));
        }
    }
    let stranded: u64 = ["queued", "running", "pushing"]
        .iter()
        .map(|state| campaign.tasks.get(state).copied().unwrap_or_default())
        .sum();
    println!(
        "schedules={} hours={:.0} tasks={:?} landings={} stranded={stranded} broken={} took={:.1}s",
        campaign.schedules,
        campaign.elapsed.as_secs_f64() / 3600.0,
        campaign.tasks,
        campaign.landings,
        campaign.broken.len(),
        took.as_secs_f64(),
    );
}
