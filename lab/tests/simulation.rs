//! Schedules of the runner's real code: all must hold, and what is broken on purpose must be
//! caught.

use std::time::Duration;

use rdev_lab::simulation::{Broken, Campaign, Fault, Plan, replay_command, run, run_many};

fn assert_good(campaign: &Campaign) {
    let broken = campaign.broken.iter().map(|(seed, what)| {
        format!("{}\nreplay with: {}\n", what.join("\n"), replay_command(*seed))
    });
    let broken: Vec<String> = broken.collect();
    assert!(
        broken.is_empty(),
        "{} schedules broke something:\n{}",
        broken.len(),
        broken.join("\n")
    );
}

#[test]
fn ten_thousand_schedules_strand_no_task_and_land_no_lineage_twice() {
    let campaign = run_many(1, 10_000, Plan::of);
    assert_good(&campaign);
    assert_eq!(campaign.schedules, 10_000);
    let missing: Vec<Fault> =
        Fault::ALL.into_iter().filter(|fault| campaign.counts.of(*fault) == 0).collect();
    assert_eq!(missing, [], "each kind of fault has to occur");
    assert!(campaign.landings > 5_000, "{} landings", campaign.landings);
}

#[test]
fn a_seed_is_a_schedule_that_can_be_run_again() {
    for seed in 1..=30 {
        let (first, second) = (run(Plan::of(seed), true), run(Plan::of(seed), true));
        assert!(first.trace.len() > 10, "seed {seed}: {}", first.trace.len());
        for (line, again) in first.trace.iter().zip(&second.trace) {
            assert_eq!(line, again, "seed {seed}");
        }
        assert_eq!(first.trace.len(), second.trace.len(), "seed {seed}");
    }
}

#[test]
fn a_server_that_is_away_in_pushing_for_an_hour_gets_the_work_once_and_for_longer_the_push_is_given_up()
 {
    let hour = Duration::from_secs(60 * 60);
    let (mut waited, mut delivered, mut given_up) = (0, 0, 0);
    for seed in 1..=40 {
        for away in [hour, 3 * hour] {
            let outcome = run(Plan::outage(seed, away), false);
            assert_eq!(outcome.violations, [""; 0], "seed {seed}");
            // A few builds change nothing, so nothing is pushed.
            if outcome.counts.of(Fault::ServerAway) == 0 {
                continue;
            }
            waited += 1;
            let ended = |state| outcome.tasks.get(state).copied().unwrap_or_default();
            if away == hour {
                assert_eq!((ended("succeeded"), outcome.landings), (1, 1), "seed {seed}");
                delivered += 1;
            } else {
                assert_eq!((ended("failed"), outcome.landings), (1, 0), "seed {seed}");
                given_up += 1;
            }
        }
    }
    assert!(waited > 40 && delivered > 20 && given_up > 20, "{waited} {delivered} {given_up}");
}

/// What the first seeds break when a rule is left out.
fn broken_without(rule: Broken, schedules: u64) -> String {
    let plan = |seed| Plan { broken: Some(rule), ..Plan::of(seed) };
    let campaign = run_many(1, schedules, plan);
    campaign.broken.into_values().flatten().collect::<Vec<_>>().join("\n")
}

#[test]
fn where_one_runner_in_twenty_offers_an_agent_its_builds_wait_only_for_that_runner() {
    let campaign = run_many(1, 50, Plan::mixed_fleet);
    assert_good(&campaign);
    assert_eq!(campaign.tasks.values().sum::<u64>(), 50 * 80, "{:?}", campaign.tasks);
}

#[test]
fn wake_ups_of_a_program_that_names_no_agent_are_sent_on_to_the_runner_that_has_it() {
    let campaign = run_many(1, 30, |seed| Plan { older_api: true, ..Plan::mixed_fleet(seed) });
    assert_good(&campaign);
    assert_eq!(campaign.tasks.values().sum::<u64>(), 30 * 80, "{:?}", campaign.tasks);
}

#[test]
fn a_server_that_ignores_the_ticket_lets_a_lineage_land_twice() {
    let broken = broken_without(Broken::TicketIgnored, 3_000);
    assert!(broken.contains("has landed twice") || broken.contains("without doubt"), "{broken}");
}

#[test]
fn where_the_store_forgets_that_work_is_not_verified_it_lands_unverified() {
    let broken = broken_without(Broken::UnverifiedForgotten, 1_000);
    assert!(broken.contains("has landed unverified"), "{broken}");
}

#[test]
fn without_the_sweep_tasks_are_stranded() {
    let broken = broken_without(Broken::NoSweep, 100);
    assert!(broken.contains("is stranded"), "{broken}");
}
