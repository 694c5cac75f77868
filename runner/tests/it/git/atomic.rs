//! Pushes that move one ref and delete another, on a server and in a folder: both or none.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use rdev_domain::git::OwnRef;
use rdev_domain::ids::{Fence, TaskId};
use rdev_testkit::servers::git_http::GitServer;

use super::local::local;
use super::*;

/// An `update` hook that lets no ref be deleted.
const KEEP_ALL: &str =
    "case $3 in *[!0]*) exit 0;; esac; echo 'nothing is deleted here' >&2; exit 1";

fn task() -> TaskId {
    "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a task id")
}

fn ticket() -> OwnRef {
    OwnRef::Wip(task(), Fence(1))
}

fn revoked() -> OwnRef {
    OwnRef::Revoked(task(), Fence(1))
}

fn name(own: OwnRef) -> String {
    format!("refs/{}", own.path())
}

/// A world whose commit is at a ticket.
struct Ticketed {
    world: World,
    remote: Remote,
    dirs: Workdir,
    tip: Tip,
    commit: CommitId,
}

impl Ticketed {
    /// On a server, and in a folder.
    fn both() -> [Self; 2] {
        [false, true].map(Self::new)
    }

    fn new(in_folder: bool) -> Self {
        let world = World::new();
        let remote = if in_folder { local(&world) } else { world.remote.clone() };
        let main = branch("main");
        let fetched = git::fetch(&world.cache(), u64::MAX, &remote, &main, &main, &go());
        let fetched = fetched.expect("a fetch");
        let dirs = world.dirs("build");
        git::checkout(&fetched.mirror, fetched.start.as_ref(), &main, &dirs, &go())
            .expect("a checkout");
        write(&dirs, "a.txt", "mine\n");
        let commit = committed(&dirs, fetched.start.as_ref(), "work");
        push(&dirs, &remote, &commit, &name(ticket()), &Expect::Exactly(Tip::Absent))
            .expect("a ticket");
        Self { world, remote, dirs, tip: fetched.tip, commit }
    }

    /// Moves `target` from `from` to the commit and deletes a ticket.
    fn exchange(&self, target: &str, expect: &Expect, delete: OwnRef) -> Result<(), GitError> {
        let push = Push {
            dirs: &self.dirs,
            remote: &self.remote,
            commit: &self.commit,
            target,
            expect,
            delete: Some((delete, &self.commit)),
            watch: &branch("main"),
            known: None,
            until: Until::Updated,
        };
        git::push(&push, &go()).map(|_| ())
    }

    fn lands(&self) -> Result<(), GitError> {
        self.exchange("refs/heads/main", &Expect::Forward(self.tip.clone()), ticket())
    }

    fn is_revoked(&self) -> Result<(), GitError> {
        self.exchange(&name(revoked()), &Expect::Exactly(Tip::Absent), ticket())
    }

    fn at(&self, own: OwnRef) -> Option<String> {
        self.server().find_ref("site", &name(own))
    }

    fn server(&self) -> &GitServer {
        &self.world.server
    }

    fn sees(&self) -> git::Seen {
        git::look(&self.dirs, &self.remote, &branch("main"), &go()).expect("a list")
    }
}

#[test]
fn the_push_that_moves_the_branch_deletes_its_ticket() {
    for it in Ticketed::both() {
        it.lands().expect("a push");
        assert_eq!(it.world.main(), Some(it.commit.to_string()));
        assert_eq!(it.at(ticket()), None);
        let again = it.lands();
        assert!(matches!(&again, Err(GitError::Moved { .. })), "{again:?}");
        assert_eq!(it.sees().own, []);
        it.server().git("site", &["fsck", "--strict"]);
    }
}

#[test]
fn a_push_whose_ticket_is_gone_or_elsewhere_changes_nothing() {
    for it in Ticketed::both() {
        let main = it.world.main().expect("main");
        it.server().git("site", &["update-ref", &name(ticket()), &main]);
        let refused = it.lands();
        assert!(matches!(&refused, Err(GitError::Gone { .. })), "{refused:?}");
        assert_eq!(it.at(ticket()), Some(main.clone()));
        it.server().git("site", &["update-ref", "-d", &name(ticket())]);
        let refused = it.lands();
        assert!(matches!(&refused, Err(GitError::Gone { .. })), "{refused:?}");
        assert_eq!(it.world.main(), Some(main));
    }
}

#[test]
fn a_push_to_a_branch_that_has_moved_leaves_the_ticket() {
    for it in Ticketed::both() {
        let theirs = it.server().commit("site", "main", &[("c", "c")], "theirs");
        let refused = it.lands();
        assert!(matches!(&refused, Err(GitError::Moved { tip }) if *tip == at(&theirs)));
        assert_eq!(it.at(ticket()), Some(it.commit.to_string()));
        assert_eq!(it.world.main(), Some(theirs));
    }
}

#[test]
fn a_revoked_ticket_lands_nowhere_and_a_repeat_of_the_revocation_counts() {
    for it in Ticketed::both() {
        it.is_revoked().expect("a revocation");
        assert_eq!((it.at(ticket()), it.at(revoked())), (None, Some(it.commit.to_string())));
        it.is_revoked().expect("its answer may have been lost");
        let refused = it.lands();
        assert!(matches!(&refused, Err(GitError::Gone { .. })), "{refused:?}");
        it.server().git("site", &["fsck", "--strict"]);
    }
}

#[test]
fn of_three_that_land_and_one_that_revokes_exactly_one_succeeds() {
    for in_folder in [false, true] {
        let mut landed = 0;
        for round in 0..8 {
            let it = Ticketed::new(in_folder);
            let (barrier, won) = (Barrier::new(4), AtomicUsize::new(0));
            std::thread::scope(|scope| {
                for n in 0..4 {
                    let (it, barrier, won) = (&it, &barrier, &won);
                    scope.spawn(move || {
                        barrier.wait();
                        let outcome = if n == 0 { it.is_revoked() } else { it.lands() };
                        match outcome {
                            Ok(()) => {
                                won.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(GitError::Moved { .. } | GitError::Gone { .. }) => {}
                            // A lock of another one was in the way.
                            Err(error) if error.is_transient() => {}
                            Err(other) => panic!("{other:?}"),
                        }
                    });
                }
            });
            let on_branch = it.world.main() == Some(it.commit.to_string());
            let is_revoked = it.at(revoked()).is_some();
            assert_eq!(won.into_inner(), 1, "round {round}, in a folder: {in_folder}");
            assert!(on_branch != is_revoked && it.at(ticket()).is_none(), "round {round}");
            landed += usize::from(on_branch);
        }
        assert!(landed <= 8);
    }
}

#[test]
fn a_ticket_is_taken_over_under_another_name() {
    for it in Ticketed::both() {
        let mine = OwnRef::Wip(task(), Fence(2));
        it.exchange(&name(mine), &Expect::Exactly(Tip::Absent), ticket()).expect("a push");
        assert_eq!((it.at(ticket()), it.at(mine)), (None, Some(it.commit.to_string())));
        assert_eq!(it.sees().own, [(mine, it.commit.clone())]);
        let late = it.lands();
        assert!(matches!(&late, Err(GitError::Gone { .. })), "{late:?}");
    }
}

#[test]
fn a_packed_ticket_is_deleted_whole() {
    let it = Ticketed::new(true);
    let main = it.world.main().expect("main");
    it.server().git("site", &["update-ref", &name(ticket()), &main]);
    it.server().git("site", &["pack-refs", "--all"]);
    // The packed value is out of date; it must not come to light again.
    it.server().git("site", &["update-ref", &name(ticket()), it.commit.as_str()]);
    it.lands().expect("a push");
    assert_eq!((it.at(ticket()), it.world.main()), (None, Some(it.commit.to_string())));
    it.server().git("site", &["fsck", "--strict"]);
}

#[test]
fn a_server_that_cannot_delete_and_move_as_a_whole_says_so_and_changes_nothing() {
    let without_atomic = |it: &Ticketed| {
        it.server().git("site", &["config", "receive.advertiseAtomic", "false"]);
    };
    let keeps_all = |it: &Ticketed| it.server().hook("site", "update", KEEP_ALL);
    let servers: [&dyn Fn(&Ticketed); 2] = [&without_atomic, &keeps_all];
    for (n, makes) in servers.into_iter().enumerate() {
        let it = Ticketed::new(false);
        makes(&it);
        let main = it.world.main();
        let refused = it.lands();
        assert!(matches!(&refused, Err(GitError::NotAtomic)), "{n}: {refused:?}");
        assert_eq!((it.world.main(), it.at(ticket())), (main, Some(it.commit.to_string())));
    }
}

#[test]
fn a_hook_that_refuses_the_branch_keeps_the_ticket() {
    for hook in ["pre-receive", "update"] {
        let it = Ticketed::new(false);
        it.server().hook("site", hook, "echo 'not on main' >&2; exit 1");
        let refused = it.lands();
        let Err(GitError::Rejected { reason }) = &refused else { panic!("{hook}: {refused:?}") };
        assert!(reason.contains("not on main"), "{reason}");
        assert_eq!(it.at(ticket()), Some(it.commit.to_string()));
    }
}

/// Writes the locks that a process leaves which is killed in the middle of a landing.
fn leave_locks(it: &Ticketed, stage: &str, with_target: bool) -> [PathBuf; 2] {
    let folder = it.server().folder("site");
    let lock = folder.join(format!("{}.lock", name(ticket())));
    let target = folder.join("refs/heads/main.lock");
    fs::write(&lock, format!("rdev {stage} {} refs/heads/main\n", it.commit)).expect("a lock");
    if with_target {
        fs::write(&target, format!("{}\n", it.commit)).expect("a lock");
    }
    [lock, target]
}

#[test]
fn a_ticket_is_put_back_by_whoever_finds_that_its_branch_has_not_moved() {
    for living in [false, true] {
        let it = Ticketed::new(true);
        let main = it.world.main();
        let [lock, target] = leave_locks(&it, "landing  ", true);
        let mut text = fs::read_to_string(&lock).expect("a lock");
        text.truncate(text.trim_end().len());
        fs::write(&lock, format!("{text} {}\n", it.commit)).expect("the ticket's value");
        let holder = fs::File::open(&lock).expect("a lock");
        if living {
            holder.lock().expect("nobody has it");
        }
        // The last step before the branch moves.
        let path = it.server().folder("site").join(name(ticket()));
        fs::remove_file(&path).expect("the ticket goes");
        assert_eq!(it.sees().own, [(ticket(), it.commit.clone())], "nothing has landed");
        assert_eq!((path.exists(), lock.exists(), target.exists()), (!living, living, living));
        assert_eq!(it.world.main(), main);
        if living {
            // It goes on: the branch moves, and then the ticket does not count any more.
            fs::rename(&target, target.with_extension("")).expect("the branch moves");
            assert_eq!(it.sees().own, []);
        } else {
            it.lands().expect("nothing is in the way");
        }
        assert_eq!(it.world.main(), Some(it.commit.to_string()));
    }
}

/// A named pipe in the place of the branch's log. Whoever opens it to write waits for a reader.
struct Pipe(PathBuf);

impl Pipe {
    fn at(path: PathBuf) -> Self {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the logs' folder");
        if path.exists() {
            fs::remove_file(&path).expect("the log goes");
        }
        let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        Self(path)
    }

    /// Lets one writer pass.
    fn read(&self) -> String {
        fs::read_to_string(&self.0).expect("what it wrote")
    }
}

#[test]
fn a_landing_that_stops_half_way_is_not_repeated_though_people_remove_its_locks_and_rewind() {
    let it = Ticketed::new(true);
    let before = it.world.main().expect("main");
    let folder = it.server().folder("site");
    let log = folder.join("logs/refs/heads/main");
    let lock = folder.join(format!("{}.lock", name(ticket())));
    let pipe = Pipe::at(log.clone());
    std::thread::scope(|scope| {
        let stopped = scope.spawn(|| it.lands());
        // It sees to it that there is a log. When it writes into it, the branch has moved.
        pipe.read();
        let deadline = Instant::now() + Duration::from_secs(120);
        while it.world.main() != Some(it.commit.to_string()) {
            assert!(Instant::now() < deadline, "the branch does not move");
            std::thread::yield_now();
        }
        assert!(lock.exists(), "it is half way");
        // As far as anybody sees, that process is dead. Its log is an ordinary one again.
        let aside = Pipe(log.with_extension("aside"));
        fs::rename(&log, &aside.0).expect("moved");
        fs::write(&log, "").expect("a log");
        fs::remove_file(&lock).expect("a person removes the stale lock");
        it.server().git("site", &["update-ref", "refs/heads/main", &before]);

        assert_eq!(it.sees().own, [], "the ticket went before the branch moved");
        let again = it.lands();
        assert!(matches!(&again, Err(GitError::Gone { .. })), "{again:?}");
        assert_eq!(it.world.main(), Some(before.clone()));
        let commits = [it.commit.clone()];
        let logged = git::in_log(&it.remote, &branch("main"), &commits).expect("a log");
        assert_eq!(logged, Some(it.commit.clone()), "whoever looks learns that it has landed");

        aside.read();
        stopped.join().expect("it goes on").expect("it has landed");
    });
    assert_eq!(it.world.main(), Some(before));
}

#[test]
fn what_a_killed_process_left_half_done_is_undone_until_the_branch_has_moved() {
    for (stage, with_target) in [("preparing", false), ("preparing", true), ("landing  ", true)] {
        let it = Ticketed::new(true);
        let main = it.world.main();
        let locks = leave_locks(&it, stage, with_target);
        assert_eq!(it.sees().own, [(ticket(), it.commit.clone())], "{stage}");
        assert!(locks.iter().all(|lock| !lock.exists()), "{stage}");
        assert_eq!(it.world.main(), main);
        it.lands().expect("nothing is in the way");
    }
}

#[test]
fn what_a_killed_process_left_half_done_is_ended_once_the_branch_has_moved() {
    let it = Ticketed::new(true);
    let before = it.world.main().expect("main");
    it.server().git("site", &["update-ref", "refs/heads/main", it.commit.as_str()]);
    // A person rewinds the branch before anybody looks.
    it.server().git("site", &["update-ref", "refs/heads/main", &before]);
    let locks = leave_locks(&it, "landing  ", false);
    assert_eq!(it.sees().own, [], "the ticket was used");
    assert!(locks.iter().all(|lock| !lock.exists()));
    let again = it.lands();
    assert!(matches!(&again, Err(GitError::Gone { .. })), "{again:?}");
    assert_eq!(it.world.main(), Some(before));
}

#[test]
fn locks_of_others_and_of_the_living_stay() {
    let it = Ticketed::new(true);
    let [lock, _] = leave_locks(&it, "landing  ", false);
    let living = fs::File::open(&lock).expect("a lock");
    living.lock().expect("nobody has it");
    assert_eq!(it.sees().own, [(ticket(), it.commit.clone())]);
    let refused = it.lands().expect_err("it is locked");
    assert!(refused.is_transient() && !refused.is_in_doubt(), "{refused:?}");
    drop(living);
    fs::write(&lock, "").expect("a lock of git's own");
    let refused = it.lands().expect_err("it is locked");
    assert!(refused.is_transient(), "{refused:?}");
    assert!(lock.exists() && it.at(ticket()).is_some());
    fs::remove_file(&lock).expect("somebody removes it");
    it.lands().expect("a push");
}
