//! What goes wrong, and when: kills, pauses, full disks.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use rand::RngExt;
use rand::rngs::StdRng;
use rdev_domain::time::Timestamp;
use tokio::sync::{RwLock, RwLockWriteGuard, watch};
use tokio::time::sleep;

use super::api::Api;
use super::checker::processes::{Found, is_alive, marked};
use super::clients::Accepted;
use super::disk::Disk;
use super::git_server::RemoteGit;
use super::machine::{Killed, Machine};
use super::people::Repository;
use super::plan::Options;
use super::processes::Reach;

/// How long the next kill waits for builds to come along.
const SLOWEST: Duration = Duration::from_secs(30);

/// The share of kills of runners that wait for a push to be under way, and how long they do.
const AIMED: f64 = 0.4;
const AIM: Duration = Duration::from_millis(700);

/// What an aimed kill waits for, each there for a shorter moment than the one before.
#[derive(Debug, Clone, Copy)]
enum At {
    Ticket,
    Lock,
    Landing,
}

/// What was done.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// When a runner was killed, and its worker id.
    pub(crate) runners: Vec<(Timestamp, String)>,
    pub(crate) api_kills: usize,
    pub(crate) git_kills: usize,
    pub(crate) pauses: usize,
    pub(crate) drains: usize,
    pub(crate) full_disks: usize,
    /// Kills of a runner that have left a lock in a repository: a push was half done.
    pub(crate) half_done: usize,
    /// Rewinds of such a branch before the next start.
    pub(crate) rewinds: usize,
    /// Processes of agents that outlived the next start of their killed runner.
    pub(crate) survivors: Vec<Found>,
}

/// Everything that faults are done to.
pub(crate) struct Targets<'a> {
    pub(crate) machine: &'a mut Machine,
    pub(crate) git: &'a mut RemoteGit,
    pub(crate) disk: Option<&'a Disk>,
    pub(crate) api: &'a Api,
    pub(crate) accepted: &'a Accepted,
    /// Held by people while they act in a repository.
    pub(crate) people: &'a RwLock<()>,
    pub(crate) repositories: &'a [Repository],
    pub(crate) mark: &'a str,
}

impl Faults {
    fn kills(&self) -> usize {
        self.runners.len() + self.api_kills + self.git_kills
    }
}

/// Kills, pauses and fills until there were as many kills as were asked for. Builds may come in
/// step with them.
pub(crate) async fn strike(
    targets: &mut Targets<'_>,
    options: &Options,
    allowed: &watch::Sender<usize>,
    mut random: StdRng,
) -> Result<Faults> {
    let mut faults = Faults::default();
    while faults.kills() < options.kills {
        let next = options.builds * (faults.kills() + 1) / options.kills;
        allowed.send_replace(next.max(1));
        let behind = options.builds * faults.kills() / options.kills;
        targets.accepted.reached(behind, SLOWEST).await;
        sleep(Duration::from_millis(random.random_range(100..1200))).await;
        targets.machine.still_runs()?;
        match random.random_range(0..100) {
            0..70 => kill_machine(targets, &mut faults, &mut random).await?,
            70..84 => kill_git(targets, &mut faults, &mut random).await?,
            84..90 => {
                let pause = Duration::from_millis(match random.random_range(0..6) {
                    0 => random.random_range(8_000..20_000),
                    _ => random.random_range(100..4_000),
                });
                targets.machine.pause(pause, &mut random).await?;
                faults.pauses += 1;
            }
            90..94 => {
                targets.git.pause(Duration::from_millis(random.random_range(100..6_000))).await?;
                faults.pauses += 1;
            }
            94..97 => {
                let _alone = alone(targets.people).await?;
                let place = targets.machine.drain(&mut random).await?;
                targets.api.moved(place);
                faults.drains += 1;
            }
            _ => {
                if let Some(disk) = targets.disk {
                    // Their git would fail as rdev's does, and they do not try again.
                    let _alone = alone(targets.people).await?;
                    disk.fill(Duration::from_millis(random.random_range(500..4_000))).await?;
                    faults.full_disks += 1;
                }
            }
        }
    }
    allowed.send_replace(options.builds);
    Ok(faults)
}

async fn kill_machine(
    targets: &mut Targets<'_>,
    faults: &mut Faults,
    random: &mut StdRng,
) -> Result<()> {
    if random.random_bool(AIMED) {
        let at = [At::Ticket, At::Lock, At::Landing][random.random_range(0..3)];
        tokio::task::block_in_place(|| aim(targets.repositories, at));
    }
    let killed = targets.machine.kill(random)?;
    let at: Timestamp = SystemTime::now().into();
    // Those that live now are the killed runner's, for the next one of its folder to end.
    let agents = targets.machine.agents_of(&killed, marked(targets.mark));
    match &killed {
        Killed::Runner(worker) => faults.runners.push((at, worker.clone())),
        Killed::Api => faults.api_kills += 1,
    }
    for repository in targets.repositories.iter().filter(|one| targets.machine.owns(&one.folder)) {
        if repository.is_locked() {
            faults.half_done += 1;
            let _here = targets.people.read().await;
            if random.random_bool(0.7) && repository.rewind_one() {
                faults.rewinds += 1;
            }
        }
    }
    if random.random_bool(0.3) {
        sleep(Duration::from_millis(random.random_range(10..1_000))).await;
    }
    // A start removes locks from the repositories of its folder, also those of a living git.
    let nobody = alone(targets.people).await?;
    let place = targets.machine.restart(&killed).await?;
    drop(nobody);
    targets.api.moved(place);
    // On one machine it is ready, and has ended them. Elsewhere their guardians end them, or the
    // next start of the runner: soon, but nobody says when.
    let mut alive: Vec<Found> = agents.into_iter().filter(is_alive).collect();
    let end = Instant::now() + targets.machine.last_moments();
    while !alive.is_empty() && Instant::now() < end {
        sleep(Duration::from_millis(10)).await;
        alive.retain(is_alive);
    }
    faults.survivors.extend(alive);
    Ok(())
}

/// Waits until a push is to be seen in one of the repositories.
fn aim(repositories: &[Repository], at: At) {
    let end = Instant::now() + AIM;
    while Instant::now() < end {
        for one in repositories {
            let seen = match at {
                At::Ticket => one.has_ticket(),
                At::Lock => one.is_locked(),
                // The lock is there before it says so.
                At::Landing => {
                    while one.is_locked() && !one.is_landing() && Instant::now() < end {}
                    one.is_landing()
                }
            };
            if seen {
                return;
            }
        }
    }
}

async fn kill_git(
    targets: &mut Targets<'_>,
    faults: &mut Faults,
    random: &mut StdRng,
) -> Result<()> {
    let reach = if random.random_bool(0.5) { Reach::Group } else { Reach::Process };
    targets.git.kill(reach)?;
    faults.git_kills += 1;
    if random.random_bool(0.5) {
        sleep(Duration::from_millis(random.random_range(10..2_000))).await;
    }
    let _alone = alone(targets.people).await?;
    targets.git.restart().await
}

/// Waits until no person is in a repository, and keeps them out.
async fn alone(people: &RwLock<()>) -> Result<RwLockWriteGuard<'_, ()>> {
    let nobody = tokio::time::timeout(SLOWEST, people.write()).await;
    nobody.map_err(|_| anyhow!("people do not leave the repositories alone"))
}
