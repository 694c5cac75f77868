//! Schedules of the runner's real code: all must hold, and what is broken on purpose must be
//! caught.

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

/// What the first seeds break when a rule is left out.
fn broken_without(rule: Broken, schedules: u64) -> String {
    let plan = |seed| Plan { broken: Some(rule), ..Plan::of(seed) };
    let campaign = run_many(1, schedules, plan);
    campaign.broken.into_values().flatten().collect::<Vec<_>>().join("\n")
}

#[test]
fn a_server_that_ignores_the_ticket_lets_a_lineage_land_twice() {
    let broken = broken_without(Broken::TicketIgnored, 3_000);
    assert!(broken.contains("has landed twice") || broken.contains("without doubt"), "{broken}");
}

#[test]
fn without_the_sweep_tasks_are_stranded() {
    let broken = broken_without(Broken::NoSweep, 100);
    assert!(broken.contains("is stranded"), "{broken}");
}
