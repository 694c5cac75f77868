//! Refs of rdev's own that attempts have left: which go, when, and which stay and are named.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rdev_domain::git::{LeftRef, OwnRef};
use rdev_domain::git_url::GitUrl;
use rdev_domain::ids::{Fence, TaskId};
use rdev_domain::project::Project;
use rdev_domain::record::Format;
use rdev_domain::ref_look::{RefLook, SELDOM};
use rdev_domain::result::Outcome;
use rdev_domain::spec::{BuildSpec, Work};
use rdev_domain::step::Event;
use rdev_domain::task::Task;
use rdev_testkit::servers::git_http::{GitServer, TOKEN};
use ulid::Ulid;

use crate::build::ghost::Ghost;
use crate::build::remote::world_with;
use crate::world::{PATIENCE, World, git, now, ulid};

const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A world, its project, and the project's repository: in a folder, or behind a server.
struct Scene {
    world: World,
    site: Project,
    repository: PathBuf,
    server: Option<GitServer>,
}

async fn in_a_folder() -> Scene {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    Scene { world, site, repository, server: None }
}

async fn behind_a_server() -> Scene {
    let (world, server, site) = world_with(TOKEN).await;
    let repository = server.folder("site");
    Scene { world, site, repository, server: Some(server) }
}

impl Scene {
    async fn both() -> [Self; 2] {
        [in_a_folder().await, behind_a_server().await]
    }

    fn url(&self) -> GitUrl {
        self.site.git_url.clone().expect("a URL")
    }

    /// Makes a ref, as an attempt that nobody has cleaned up after.
    fn leaves(&self, name: &str) {
        git(&self.repository, &["update-ref", name, "refs/heads/main"]);
    }

    /// The refs of rdev's own, by their full names.
    fn refs(&self) -> Vec<String> {
        let format = "--format=%(refname)";
        let refs = git(&self.repository, &["for-each-ref", format, "refs/rdev", "refs/heads/rdev"]);
        refs.lines().map(str::to_owned).collect()
    }

    async fn until_there_are(&self, expected: &[String]) {
        let mut expected = expected.to_vec();
        expected.sort();
        let end = Instant::now() + PATIENCE;
        while self.refs() != expected {
            assert!(Instant::now() < end, "{:?} stay, {expected:?} should", self.refs());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The look of the repository, if one is due within a time.
    async fn planned(&self, within: Duration) -> Option<RefLook> {
        let due = self.world.store().due_looks(now().plus(within), 10).await.expect("an answer");
        due.into_iter().find(|look| look.repository == self.url())
    }

    /// The day passes, and another runner looks, which nobody gives work. Returns what it plans.
    async fn another_runner_looks(&self, name: &str) -> RefLook {
        let store = self.world.store();
        store.plan_look(&self.url(), now(), now()).await.expect("planned");
        let running = self.world.run_as(name, Format::CURRENT);
        let end = Instant::now() + PATIENCE;
        // While it looks, the next look is within the hour.
        while self.planned(2 * HOUR).await.is_some() {
            assert!(Instant::now() < end, "nobody looks");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        running.stop().await;
        self.planned(DAY).await.expect("an attempt may be at work that has fetched today")
    }
}

fn full(own: OwnRef) -> String {
    own.full_name(false)
}

/// One of each kind that goes.
fn left_by(task: TaskId) -> [OwnRef; 3] {
    [OwnRef::Wip(task, Fence(7)), OwnRef::Part(task, Fence(8)), OwnRef::Revoked(task, Fence(9))]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_that_ended_well_has_left_goes_at_the_next_fetch() {
    for scene in Scene::both().await {
        let (world, site) = (&scene.world, &scene.site);
        let running = world.run();
        let done = world.build(site, "echo 2 > a").await;
        world.succeeded(done).await;
        for text in ["3", "4"] {
            left_by(done).into_iter().for_each(|own| scene.leaves(&full(own)));
            // Where a server accepts no other refs they are branches.
            scene.leaves(&OwnRef::Wip(done, Fence(6)).full_name(true));
            let next = world.build(site, &format!("echo {text} > a")).await;
            world.succeeded(next).await;
            scene.until_there_are(&[]).await;
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_in_a_project_that_never_builds_again_goes_within_a_day_whoever_looks() {
    for scene in Scene::both().await {
        let (world, site) = (&scene.world, &scene.site);
        let running = world.run();
        let done = world.build(site, "echo 2 > a").await;
        world.succeeded(done).await;
        running.stop().await;
        assert_eq!(scene.planned(SELDOM - HOUR).await, None, "nobody looks so soon");
        let plan = scene.planned(SELDOM).await.expect("the fetch has planned it");
        // A runner asks once an hour what is due.
        assert!(plan.due.plus(HOUR) < now().plus(DAY), "{plan:?}");

        left_by(done).into_iter().for_each(|own| scene.leaves(&full(own)));
        let old = u64::try_from(now().minus(91 * DAY).as_millis()).expect("after 1970");
        let forgotten = TaskId(Ulid::from_parts(old, 1));
        scene.leaves(&full(OwnRef::Kept(forgotten)));
        // Nobody's, a person's, and perhaps another installation's.
        let others = [
            "refs/rdev/wip/garbage".to_owned(),
            "refs/heads/rdev/anything".to_owned(),
            full(OwnRef::Wip(TaskId(ulid()), Fence(1))),
        ];
        others.iter().for_each(|name| scene.leaves(name));
        let next = scene.another_runner_looks("other").await;
        scene.until_there_are(&others).await;
        assert_eq!(next.known, [].into());
        assert!(next.due > now().plus(SELDOM - HOUR), "{next:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_end_when_nothing_is_left_and_nobody_has_fetched_for_long() {
    let scene = in_a_folder().await;
    let store = scene.world.store();
    let long_ago = now().minus(2 * DAY);
    store.plan_look(&scene.url(), long_ago, long_ago).await.expect("planned");
    let running = scene.world.run();
    let end = Instant::now() + PATIENCE;
    while scene.planned(365 * DAY).await.is_some() {
        assert!(Instant::now() < end, "it is still planned");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_that_is_gone_is_looked_for_no_longer_than_anything_of_ours_may_be_there() {
    let scene = behind_a_server().await;
    let store = scene.world.store();
    let long_ago = now().minus(2 * DAY);
    store.plan_look(&scene.url(), long_ago, long_ago).await.expect("planned");
    let [before] = &store.due_looks(now(), 10).await.expect("an answer")[..] else { panic!("one") };
    // Its record has expired since it was seen.
    let known = RefLook { known: [TaskId(ulid())].into(), ..before.clone() };
    assert!(store.update_look(before, Some(&known)).await.expect("an answer"));
    std::fs::remove_dir_all(&scene.repository).expect("it was there");
    let running = scene.world.run();
    let end = Instant::now() + PATIENCE;
    while scene.planned(365 * DAY).await.is_some() {
        assert!(Instant::now() < end, "it is still planned");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_of_failed_tasks_and_kept_refs_stay_until_the_record_expires_and_go_then() {
    for scene in Scene::both().await {
        let (world, site) = (&scene.world, &scene.site);
        let running = world.run();
        let late = world.build_with(site, "echo 2 > a; sleep 600", |spec| spec.timeout_s = 2).await;
        assert_eq!(world.failed(late).await.0, "timeout");
        let kept = world.build_with(site, "echo 3 > a", |spec| spec.auto_push = false).await;
        assert_eq!(world.succeeded(kept).await.outcome, Outcome::CommittedNotPushed);
        let next = world.build(site, "echo 4 > a").await;
        world.succeeded(next).await;
        running.stop().await;
        let part = OwnRef::Part(late, world.task(late).await.task.fence);
        let stay = [full(part), full(OwnRef::Kept(kept))];
        scene.until_there_are(&stay).await;

        let plan = scene.another_runner_looks("first").await;
        assert_eq!(plan.known, [late, kept].into());
        scene.until_there_are(&stay).await;
        // A ref of nobody that is known: its task may be another installation's.
        let foreign = full(OwnRef::Part(TaskId(ulid()), Fence(1)));
        scene.leaves(&foreign);

        while world.store().sweep(now().plus(91 * DAY)).await.expect("a sweep").more {}
        world.store().task(late).await.expect_err("its record has expired");
        let plan = scene.another_runner_looks("second").await;
        scene.until_there_are(&[foreign]).await;
        assert_eq!(plan.known, [].into());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_leaves_the_tickets_of_living_tasks_alone() {
    let scene = in_a_folder().await;
    let (world, site) = (&scene.world, &scene.site);
    let done = world.build(site, "echo 2 > a").await;
    let running = world.run();
    world.succeeded(done).await;
    running.stop().await;
    // It is in the middle of its push.
    let id = world.build(site, "never").await;
    let ghost = Ghost::claims(world, site).await;
    let commit = ghost.commits("a", "3\n", &ghost.wip()).await;
    left_by(done).into_iter().for_each(|own| scene.leaves(&full(own)));
    let plan = scene.another_runner_looks("running").await;
    scene.until_there_are(&[ghost.wip()]).await;
    assert_eq!(plan.known, [id].into());
    ghost.prepares(&commit).await;
    scene.another_runner_looks("pushing").await;
    scene.until_there_are(&[ghost.wip()]).await;
    // Between two attempts, too.
    ghost.tells(Event::Release { holder: ghost.holder() }).await;
    let running = world.run();
    assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
    running.stop().await;
    assert_eq!(git(&scene.repository, &["show", "main:a"]), "3");
    scene.until_there_are(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_cancelled_task_has_left_stays_while_a_retry_of_it_may_take_it_over() {
    let scene = in_a_folder().await;
    let (world, site) = (&scene.world, &scene.site);
    let id = world.build(site, "echo ran > ran; echo 2 > a").await;
    let ghost = Ghost::claims(world, site).await;
    ghost.commits("a", "3\n", &ghost.wip()).await;
    let store = world.store();
    let by = rdev_domain::audit::Actor::maintenance();
    store.advance(id, Event::Cancel, Default::default(), &by, now()).await.expect("it is asked");
    ghost.tells(Event::Release { holder: ghost.holder() }).await;
    assert_eq!(world.ended(id).await.state.as_str(), "cancelled");
    let old = world.task(id).await.task;
    let retry = rdev_domain::step::retry(&old, TaskId(ulid()), now()).expect("it can be retried");
    // Due later: no runner takes it now.
    let available_at = now().plus(HOUR);
    let retry = world.enqueue(Task { available_at, ..retry }).await;
    scene.another_runner_looks("while-it-waits").await;
    scene.until_there_are(&[ghost.wip()]).await;
    store.advance(retry, Event::Cancel, Default::default(), &by, now()).await.expect("cancelled");
    scene.another_runner_looks("afterwards").await;
    scene.until_there_are(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn looks_beside_builds_take_nothing_from_them() {
    for scene in Scene::both().await {
        let (world, site) = (&scene.world, &scene.site);
        let running = world.run();
        let done = world.build(site, "echo 2 > a").await;
        world.succeeded(done).await;
        let builds = 6;
        let mut ids = Vec::new();
        for number in 0..builds {
            ids.push(world.build(site, &format!("echo {number} > f{number}")).await);
        }
        let mut looks = 0;
        while !world.task(ids[builds - 1]).await.task.state.is_terminal() {
            // It goes, so somebody has looked.
            let witness = full(OwnRef::Part(done, Fence(7)));
            scene.leaves(&witness);
            world.store().plan_look(&scene.url(), now(), now()).await.expect("planned");
            let looking = world.run_as(&format!("look-{looks}"), Format::CURRENT);
            let end = Instant::now() + PATIENCE;
            while scene.refs().contains(&witness) {
                assert!(Instant::now() < end, "nobody looks");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            looking.stop().await;
            looks += 1;
        }
        for id in ids {
            assert_eq!(world.succeeded(id).await.outcome, Outcome::Delivered);
        }
        running.stop().await;
        assert!(looks > 0);
        let commits = git(&scene.repository, &["rev-list", "--count", "main"]);
        assert_eq!(commits, (builds + 2).to_string());
        scene.until_there_are(&[]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_names_the_refs_that_stay_as_they_are_called_at_their_server() {
    for branches_only in [false, true] {
        let scene = behind_a_server().await;
        let server = scene.server.as_ref().expect("a server");
        if branches_only {
            server.refuse_outside_heads("site");
        }
        let (world, site) = (&scene.world, &scene.site);
        let running = world.run();
        let kept = world.build_with(site, "echo 2 > a", |spec| spec.auto_push = false).await;
        let result = world.succeeded(kept).await;
        let name = OwnRef::Kept(kept).full_name(branches_only);
        assert_eq!(result.kept_ref.as_ref(), Some(&name));
        assert_eq!(server.find_ref("site", &name), result.commit_sha.map(String::from));

        let late = world.build_with(site, "echo 3 > a; sleep 600", |spec| spec.timeout_s = 2).await;
        assert_eq!(world.failed(late).await.0, "timeout");
        let task = world.task(late).await.task;
        let [left] = &task.left_refs[..] else { panic!("one: {:?}", task.left_refs) };
        assert_eq!(left.own, OwnRef::Part(late, task.fence));
        assert_eq!(left.name(), left.own.full_name(branches_only));
        assert_eq!(server.find_ref("site", &left.name()).as_deref(), Some(left.commit.as_str()));
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_build_names_its_revoked_ticket_and_what_earlier_attempts_have_left() {
    let (world, server, site) = world_with(TOKEN).await;
    let refuse = "while read old new ref; do case $ref in refs/heads/*) exit 1;; esac; done";
    server.hook("site", "pre-receive", refuse);
    let id = TaskId(ulid());
    let earlier = OwnRef::Part(id, Fence(1));
    server.git("site", &["update-ref", &full(earlier), "refs/heads/main"]);
    let task = Task::new(id, site.id.clone(), Work::Build(BuildSpec::of("echo 2 > a")), now());
    let task = Task { project_nonce: site.nonce, fence: Fence(1), ..task };
    let running = world.run();
    world.enqueue(task).await;
    assert_eq!(world.failed(id).await.0, "push_rejected");
    running.stop().await;
    let task = world.task(id).await.task;
    let on_server = |own: OwnRef| {
        let commit = server.find_ref("site", &full(own)).expect("it is there");
        LeftRef { own, commit: commit.parse().expect("a commit"), branch: false }
    };
    let expected = [on_server(earlier), on_server(OwnRef::Revoked(id, task.fence))];
    assert_eq!(task.left_refs, expected);
    let retry = rdev_domain::step::retry(&task, TaskId(ulid()), now()).expect("a retry");
    assert_eq!(retry.left_refs, [], "they are not its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_whose_ticket_is_refused_names_none() {
    let (world, server, site) = world_with(TOKEN).await;
    server.hook("site", "pre-receive", "echo 'nobody pushes here' >&2; exit 1");
    let running = world.run();
    let id = world.build(&site, "echo 2 > a").await;
    world.failed(id).await;
    running.stop().await;
    let task = world.task(id).await.task;
    assert!(!task.own_refs.is_empty(), "it was about to write one");
    assert_eq!(task.left_refs, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn refs_that_a_task_s_dead_attempts_have_left_go_with_its_good_end() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let running = world.run();
    // The first fetch, after which the next look for refs is tomorrow.
    let first = world.build(&site, "echo 2 > a").await;
    world.succeeded(first).await;
    let id = TaskId(ulid());
    let all =
        [OwnRef::Wip(id, Fence(7)), OwnRef::Part(id, Fence(8)), OwnRef::Revoked(id, Fence(9))];
    for own in all {
        let name = format!("refs/{}", own.path());
        git(&repository, &["update-ref", &name, "refs/heads/main"]);
    }
    let work = Work::Build(BuildSpec::of("echo 3 > a"));
    let task = Task::new(id, site.id.clone(), work, now());
    world.enqueue(Task { project_nonce: site.nonce, ..task }).await;
    world.succeeded(id).await;
    running.stop().await;
    assert_eq!(git(&repository, &["for-each-ref", "refs/rdev"]), "");
}
