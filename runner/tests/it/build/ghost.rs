//! A worker that is played by hand, so that a test can stop it at any line.

use rdev_domain::audit::Actor;
use rdev_domain::git::{CommitId, OwnRef, RecordedRef, Tip};
use rdev_domain::ids::{Owner, TaskId};
use rdev_domain::lease::{Holder, Progress};
use rdev_domain::outbox;
use rdev_domain::ports::{Capabilities, Claim, Claimed, Record};
use rdev_domain::project::Project;
use rdev_domain::result::{BuildResult, Outcome, Usage};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};

use crate::world::{World, git, now};

/// A worker that claims a task, works step by step, and dies when the test says so.
pub(super) struct Ghost<'a> {
    world: &'a World,
    project: &'a Project,
    pub(super) claimed: Claimed,
}

impl<'a> Ghost<'a> {
    pub(super) async fn claims(world: &'a World, project: &'a Project) -> Self {
        let worker_id = "ghost".parse().expect("a worker id");
        let owner = Owner::new(&worker_id, "one");
        let can = Capabilities { worker_id, agents: vec![AgentName::Command] };
        match world.store().claim_next(&project.id, &owner, &can, now()).await {
            Ok(Claim::Claimed(claimed)) => Self { world, project, claimed: *claimed },
            other => panic!("the ghost claims nothing: {other:?}"),
        }
    }

    pub(super) fn holder(&self) -> Holder {
        Holder { fence: self.claimed.lease.fence, owner: self.claimed.lease.owner.clone() }
    }

    pub(super) fn id(&self) -> TaskId {
        self.claimed.task.id
    }

    /// Commits `text` to `path` on the branch's tip, with the task's trailers, and keeps it at
    /// `name`, which the store knows before.
    pub(super) async fn commits(&self, path: &str, text: &str, name: &str) -> CommitId {
        let (clone, commit) = self.makes(path, text);
        self.records(OwnRef::parse(name).expect("a ref of rdev's own"), &commit).await;
        git(clone.path(), &["push", "-q", "origin", &format!("HEAD:{name}")]);
        commit
    }

    /// Tells the store that it is about to write a ref.
    pub(super) async fn records(&self, own: OwnRef, commit: &CommitId) {
        self.records_all(&[RecordedRef::of(own, commit.clone())]).await;
    }

    pub(super) async fn records_all(&self, refs: &[RecordedRef]) {
        let progress = Progress { own_refs: Some(refs), ..Progress::default() };
        let (id, holder) = (self.id(), self.holder());
        self.world.store().renew(id, &holder, progress, now()).await.expect("it holds the task");
    }

    /// The push that moves the branch and deletes the ticket.
    pub(super) fn lands(&self, commit: &CommitId, branch: &str) {
        let repository = self.world.repository(self.project);
        git(&repository, &["update-ref", &format!("refs/heads/{branch}"), commit.as_str()]);
        git(&repository, &["update-ref", "-d", &self.wip(), commit.as_str()]);
    }

    /// A commit on the branch's tip, in a clone.
    pub(super) fn makes(&self, path: &str, text: &str) -> (tempfile::TempDir, CommitId) {
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
        let commit = git(at, &["rev-parse", "HEAD"]).parse().expect("a commit");
        (clone, commit)
    }

    pub(super) fn wip(&self) -> String {
        format!("refs/rdev/wip/{}/{}", self.id(), self.claimed.task.fence)
    }

    pub(super) async fn prepares(&self, commit: &CommitId) {
        self.prepares_on(commit, "main", true).await;
    }

    /// Prepares a push to a branch. `atomic`: the server can delete the ticket with it.
    pub(super) async fn prepares_on(&self, commit: &CommitId, branch: &str, atomic: bool) {
        let repository = self.world.repository(self.project);
        let name = format!("refs/heads/{branch}");
        let tip = git(&repository, &["for-each-ref", "--format=%(objectname)", &name]);
        let prepared = Prepared {
            commit: commit.clone(),
            base: tip.parse().map_or(Tip::Absent, Tip::Commit),
            branch: branch.parse().expect("a branch"),
            wip: WipRef { task: self.id(), fence: self.claimed.task.fence },
            atomic,
            at: now(),
        };
        let result = BuildResult {
            outcome: Outcome::Delivered,
            commit_sha: Some(commit.clone()),
            branch: branch.parse().expect("a branch"),
            kept_ref: None,
            pull_request_url: None,
            files_changed: vec![],
            files_changed_total: 1,
            agent: None,
            usage: Usage::default(),
            durations_ms: Default::default(),
            summary: "by a ghost".to_owned(),
            verify: vec![],
            warnings: vec![],
        };
        let event =
            Event::Prepare { holder: self.holder(), prepared, result, usage: Usage::default() };
        self.tells(event).await;
    }

    pub(super) async fn tells(&self, event: Event) {
        let by = Actor::maintenance();
        self.world
            .store()
            .advance(self.id(), event, Record::default(), &by, now())
            .await
            .expect("the ghost is heard");
    }

    /// Dies: as after a restart, its lease is recovered and its project woken.
    pub(super) async fn dies(self) {
        let outbox = self.world.store().recover_all(now()).await.expect("recovered");
        outbox::send(&*self.world.store(), &*self.world.embedded.queue, &outbox, now())
            .await
            .expect("sent");
    }
}

/// How many commits of a lineage the branch has.
pub(super) fn commits_of(world: &World, project: &Project, lineage: TaskId) -> usize {
    let pattern = format!("--grep=Rdev-Lineage: {lineage}");
    git(&world.repository(project), &["log", "--format=%H", &pattern, "main"]).lines().count()
}

/// An agent that must not run.
pub(super) fn forbidden(world: &World) -> String {
    format!("touch {}; echo agent > by-agent", world.data.path().join("ran").display())
}

pub(super) fn agent_ran(world: &World) -> bool {
    world.data.path().join("ran").exists()
}
