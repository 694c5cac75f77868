//! Attempts that died halfway, simulated by hand: how a later attempt continues from their work.

use rdev_domain::audit::Actor;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{CommitId, Tip};
use rdev_domain::ids::{Owner, TaskId};
use rdev_domain::lease::Holder;
use rdev_domain::outbox;
use rdev_domain::ports::{Capabilities, Claim, Claimed, Record};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};

use crate::build::outcomes::{appears, wait_script};
use crate::world::{World, git, now, person_commits};

/// A worker that claims a task, works step by step, and dies when the test says so.
struct Ghost<'a> {
    world: &'a World,
    project: &'a Project,
    claimed: Claimed,
}

impl<'a> Ghost<'a> {
    async fn claims(world: &'a World, project: &'a Project) -> Self {
        let worker_id = "ghost".parse().expect("a worker id");
        let owner = Owner::new(&worker_id, "one");
        let can = Capabilities { worker_id, agents: vec![AgentName::Command] };
        match world.store().claim_next(&project.id, &owner, &can, now()).await {
            Ok(Claim::Claimed(claimed)) => Self { world, project, claimed: *claimed },
            other => panic!("the ghost claims nothing: {other:?}"),
        }
    }

    fn holder(&self) -> Holder {
        Holder { fence: self.claimed.lease.fence, owner: self.claimed.lease.owner.clone() }
    }

    fn id(&self) -> TaskId {
        self.claimed.task.id
    }

    /// Commits `text` to `path` on the branch's tip, with the task's trailers, and keeps it at `name`.
    fn commits(&self, path: &str, text: &str, name: &str) -> CommitId {
        let repository = self.world.repository(self.project);
        let clone = tempfile::tempdir().expect("a folder");
        let at = clone.path();
        git(at, &["clone", "-q", &repository.display().to_string(), "."]);
        std::fs::write(at.join(path), text).expect("a file");
        git(at, &["add", "-A"]);
        let task = &self.claimed.task;
        let message = format!(
            "Work of a ghost\n\nRdev-Task: {}\nRdev-Attempt: {}\nRdev-Lineage: {}",
            task.id, task.attempt, task.lineage
        );
        git(at, &["commit", "-q", "-m", &message]);
        git(at, &["push", "-q", "origin", &format!("HEAD:{name}")]);
        git(at, &["rev-parse", "HEAD"]).parse().expect("a commit")
    }

    fn wip(&self) -> String {
        format!("refs/rdev/wip/{}/{}", self.id(), self.claimed.task.fence)
    }

    async fn prepares(&self, commit: &CommitId) {
        let repository = self.world.repository(self.project);
        let tip = git(&repository, &["rev-parse", "main"]).parse().expect("a commit");
        let prepared = Prepared {
            commit: commit.clone(),
            base: Tip::Commit(tip),
            branch: "main".parse().expect("a branch"),
            wip: WipRef { task: self.id(), fence: self.claimed.task.fence },
            at: now(),
        };
        let result = BuildResult {
            outcome: Outcome::Delivered,
            commit_sha: Some(commit.clone()),
            branch: "main".parse().expect("a branch"),
            pull_request_url: None,
            files_changed: vec![],
            files_changed_total: 1,
            agent: None,
            usage: Usage::default(),
            durations_ms: Default::default(),
            summary: "by a ghost".to_owned(),
            warnings: vec![],
        };
        let event =
            Event::Prepare { holder: self.holder(), prepared, result, usage: Usage::default() };
        self.tells(event).await;
    }

    async fn tells(&self, event: Event) {
        let by = Actor::maintenance();
        self.world
            .store()
            .advance(self.id(), event, Record::default(), &by, now())
            .await
            .expect("the ghost is heard");
    }

    /// Dies: as after a restart, its lease is recovered and its project woken.
    async fn dies(self) {
        let outbox = self.world.store().recover_all(now()).await.expect("recovered");
        outbox::send(&*self.world.store(), &*self.world.embedded.queue, &outbox, now())
            .await
            .expect("sent");
    }
}

/// How many commits of a lineage the branch has.
fn commits_of(world: &World, project: &Project, lineage: TaskId) -> usize {
    let pattern = format!("--grep=Rdev-Lineage: {lineage}");
    git(&world.repository(project), &["log", "--format=%H", &pattern, "main"]).lines().count()
}

/// An agent that must not run.
fn forbidden(world: &World) -> String {
    format!("touch {}; echo agent > by-agent", world.data.path().join("ran").display())
}

fn agent_ran(world: &World) -> bool {
    world.data.path().join("ran").exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_work_of_a_dead_attempt_is_adopted_before_any_agent_starts() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!(result.commit_sha, Some(commit));
    assert_eq!((result.outcome, agent_ran(&world)), (Outcome::Delivered, false));
    assert_eq!(result.files_changed[0].path, "a");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_at_its_kept_ref_is_not_made_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build_with(&site, &forbidden(&world), |spec| spec.auto_push = false).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &format!("refs/rdev/kept/{id}"));
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(result.outcome, Outcome::CommittedNotPushed);
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "1");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_work_is_rebased_when_the_branch_has_moved() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    ghost.commits("a", "2\n", &ghost.wip());
    ghost.dies().await;
    person_commits(&world.repository(&site), "main", "b", "person\n");
    let running = world.run();
    world.succeeded(id).await;
    assert!(!agent_ran(&world));
    assert_eq!(commits_of(&world, &site, id), 1);
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "2");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_push_is_resumed_from_its_wip_ref() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(result.summary, "by a ghost", "what the dead attempt had reported is kept");
    let task = world.task(id).await.task;
    assert_eq!((task.attempt, task.push_attempt), (1, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_had_landed_before_its_worker_died_is_found_also_below_other_commits() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "refs/heads/main", commit.as_str()]);
    ghost.dies().await;
    person_commits(&repository, "main", "b", "person\n");
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!(result.commit_sha, Some(commit));
    assert_eq!(commits_of(&world, &site, id), 1);
    assert!(!agent_ran(&world));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_push_that_lands_while_the_next_agent_works_is_found_and_not_doubled() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let (begun, go) = (world.data.path().join("begun"), world.data.path().join("go"));
    let id = world.build(&site, &wait_script("echo again > c", &begun, &go)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let late = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&late).await;
    // Its push conflicts (so the wip ref is out of date), yet a repeat of it is still under way.
    let failure = Failure::new(FailureClass::Conflict, "does not apply");
    ghost.tells(Event::Fail { holder: ghost.holder(), failure, usage: None }).await;
    let running = world.run();
    outbox::send(
        &*world.store(),
        &*world.embedded.queue,
        &world
            .store()
            .sweep(now().plus(std::time::Duration::from_secs(31)))
            .await
            .expect("swept")
            .outbox,
        now(),
    )
    .await
    .expect("sent");
    appears(&begun).await;
    git(&repository, &["update-ref", "refs/heads/main", late.as_str()]);
    std::fs::write(&go, "").expect("go");
    let result = world.succeeded(id).await;
    assert_eq!(result.commit_sha, Some(late.clone()));
    assert_eq!(git(&repository, &["rev-parse", "main"]), late.to_string());
    assert_eq!(commits_of(&world, &site, id), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_push_that_landed_before_the_next_attempt_saves_its_agent() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let late = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&late).await;
    let failure = Failure::new(FailureClass::PushRejected, "refused");
    ghost.tells(Event::Fail { holder: ghost.holder(), failure, usage: None }).await;
    git(&world.repository(&site), &["update-ref", "refs/heads/main", late.as_str()]);
    let running = world.run();
    let retry = world.retry(id).await;
    let result = world.succeeded(retry).await;
    assert_eq!((result.commit_sha, result.outcome), (Some(late), Outcome::Delivered));
    assert!(!agent_ran(&world));
    assert_eq!(commits_of(&world, &site, id), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_continues_from_work_that_could_not_be_pushed() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    let failure = Failure::new(FailureClass::PushRejected, "refused");
    ghost.tells(Event::Fail { holder: ghost.holder(), failure, usage: None }).await;
    let running = world.run();
    let retry = world.retry(id).await;
    let result = world.succeeded(retry).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_commit_that_no_longer_exists_is_made_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    git(&world.repository(&site), &["update-ref", "-d", &ghost.wip()]);
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_ne!(result.commit_sha, Some(commit));
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "3");
    assert_eq!(world.task(id).await.task.attempt, 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_history_lost_the_scan_base_fails_and_a_retry_starts_over() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    let tree = git(&repository, &["rev-parse", "main^{tree}"]);
    let other = git(&repository, &["commit-tree", &tree, "-m", "Another history"]);
    git(&repository, &["update-ref", "refs/heads/main", &other]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "history_rewritten");
    assert_eq!(git(&repository, &["rev-parse", "main"]), other);
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(world.task(retry).await.task.lineage, retry);
    assert_eq!(git(&repository, &["rev-parse", "main~1"]), other);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_branch_is_not_made_again_behind_its_owner_s_back() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "-d", "refs/heads/main"]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "history_rewritten");
    assert_eq!(git(&repository, &["for-each-ref", "refs/heads"]), "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_is_resumed_on_its_branch_though_the_project_has_another_default_now() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    git(&repository, &["branch", "develop", "main"]);
    let develop = git(&repository, &["rev-parse", "develop"]);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip());
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "refs/heads/main", commit.as_str()]);
    let patch = rdev_domain::project::ProjectPatch {
        default_branch: Some("develop".parse().expect("a branch")),
        ..Default::default()
    };
    let by = Actor::maintenance();
    world.store().update_project(&site.id, &patch, &by, now()).await.expect("changed");
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, result.branch.as_str()), (Some(commit), "main"));
    assert_eq!(git(&repository, &["rev-parse", "develop"]), develop, "it was delivered once");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_after_a_conflict_does_not_continue_from_the_work_that_conflicted() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, "echo anew > b").await;
    let ghost = Ghost::claims(&world, &site).await;
    ghost.commits("a", "2\n", &ghost.wip());
    let failure = Failure::new(FailureClass::VerifyFailed, "not good enough");
    ghost.tells(Event::Fail { holder: ghost.holder(), failure, usage: None }).await;
    let running = world.run();
    let retry = world.retry(id).await;
    world.succeeded(retry).await;
    let repository = world.repository(&site);
    assert_eq!(git(&repository, &["show", "main:b"]), "anew");
    assert_eq!(git(&repository, &["show", "main:a"]), "1");
    running.stop().await;
}
