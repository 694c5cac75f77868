//! A process that claims, what it holds, and the events it may write about it.

use std::collections::BTreeMap;

use rdev_domain::audit::Actor;
use rdev_domain::event::{BuildEvent, EventKind, seq};
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{Branch, CommitId, Tip};
use rdev_domain::ids::{Fence, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::lease::Holder;
use rdev_domain::ports::{Capabilities, Claimed};
use rdev_domain::result::{BuildResult, Outcome, TaskResult, Usage};
use rdev_domain::spec::AgentName;
use rdev_domain::step::Event;
use rdev_domain::task::{Prepared, WipRef};
use rdev_domain::time::Timestamp;
use serde_json::json;

/// A process that claims tasks.
#[derive(Debug, Clone)]
pub(super) struct Runner {
    pub(super) owner: Owner,
    pub(super) can: Capabilities,
}

/// A claimed task, and what its holder writes with.
#[derive(Debug, Clone)]
pub(super) struct ClaimedTask {
    pub(super) id: TaskId,
    pub(super) holder: Holder,
    pub(super) claimed: Claimed,
    pub(super) by: Actor,
}

impl Runner {
    /// The first process of the worker of that name; it offers every agent.
    pub(super) fn named(name: &str) -> Self {
        Self::process(name, "first")
    }

    /// A process of the worker of that name.
    pub(super) fn process(name: &str, process: &str) -> Self {
        let worker_id: WorkerId = name.parse().expect("a worker id");
        let owner = Owner::new(&worker_id, process);
        Self { owner, can: Capabilities { worker_id, agents: AgentName::ALL.to_vec() } }
    }

    /// The same, offering only these agents.
    pub(super) fn with_agents(mut self, agents: &[AgentName]) -> Self {
        self.can.agents = agents.to_vec();
        self
    }
}

impl ClaimedTask {
    pub(super) fn new(claimed: Claimed) -> Self {
        let holder = Holder { fence: claimed.lease.fence, owner: claimed.lease.owner.clone() };
        let worker = claimed.task.worker_id.clone().expect("a claimed task names its worker");
        Self { id: claimed.task.id, holder, by: Actor::worker(worker), claimed }
    }

    pub(super) fn project(&self) -> &ProjectId {
        &self.claimed.task.project_id
    }

    /// The same task as a process would write about it that holds another fence.
    pub(super) fn with_fence(&self, fence: u64) -> Self {
        let holder = Holder { fence: Fence(fence), owner: self.holder.owner.clone() };
        Self { holder, ..self.clone() }
    }

    /// The same task as a restarted process of the same worker would write about it.
    pub(super) fn with_another_owner(&self) -> Self {
        let worker = &self.claimed.task.worker_id;
        let worker = worker.as_ref().expect("a claimed task names its worker");
        let owner = Owner::new(worker, "second");
        Self { holder: Holder { fence: self.holder.fence, owner }, ..self.clone() }
    }

    pub(super) fn prepare(&self, now: Timestamp) -> Event {
        self.prepare_on(&Tip::Commit(commit(1)), now)
    }

    /// Prepares a commit that is based on `base`.
    pub(super) fn prepare_on(&self, base: &Tip, now: Timestamp) -> Event {
        Event::Prepare {
            holder: self.holder.clone(),
            prepared: Prepared {
                commit: commit(1000 + self.holder.fence.0),
                base: base.clone(),
                branch: main(),
                wip: WipRef { task: self.id, fence: self.holder.fence },
                atomic: true,
                at: now,
            },
            result: result(Outcome::Delivered),
            usage: Usage::default(),
        }
    }

    pub(super) fn finish(&self) -> Event {
        let result = TaskResult::Build(result(Outcome::NoChange));
        Event::Finish { holder: self.holder.clone(), result, usage: Usage::default() }
    }

    pub(super) fn complete(&self) -> Event {
        Event::Complete { holder: self.holder.clone(), result: result(Outcome::Delivered) }
    }

    pub(super) fn fail(&self, class: FailureClass) -> Event {
        self.fail_with(Failure::new(class, "as the test wants it"))
    }

    pub(super) fn fail_with(&self, failure: Failure) -> Event {
        Event::Fail {
            holder: self.holder.clone(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        }
    }

    pub(super) fn release(&self) -> Event {
        Event::Release { holder: self.holder.clone() }
    }

    pub(super) fn restart(&self) -> Event {
        Event::Restart { holder: self.holder.clone() }
    }

    /// Everything its holder may write while it runs, by name.
    pub(super) fn writes_while_running(&self, now: Timestamp) -> Vec<(&'static str, Event)> {
        vec![
            ("prepare", self.prepare(now)),
            ("finish", self.finish()),
            ("fail", self.fail(FailureClass::Infra)),
            ("fail for good", self.fail(FailureClass::Invalid)),
            ("park", self.fail(FailureClass::Quota)),
            ("release", self.release()),
        ]
    }

    /// Everything its holder may write while it pushes, by name.
    pub(super) fn writes_while_pushing(&self, now: Timestamp) -> Vec<(&'static str, Event)> {
        vec![
            ("prepare again", self.prepare(now)),
            ("complete", self.complete()),
            ("fail", self.fail(FailureClass::Infra)),
            ("fail for good", self.fail(FailureClass::PushRejected)),
            ("conflict", self.fail(FailureClass::Conflict)),
            ("release", self.release()),
            ("restart", self.restart()),
        ]
    }

    /// Its `n`th event, counted from 0.
    pub(super) fn event(&self, n: u64, at: Timestamp) -> BuildEvent {
        let data = json!({ "stream": "stdout", "text": format!("line {n}") });
        BuildEvent { seq: seq(self.holder.fence, n), at, kind: EventKind::Log, data }
    }
}

pub(super) fn main() -> Branch {
    "main".parse().expect("a branch")
}

/// The commit of that number.
pub(super) fn commit(number: u64) -> CommitId {
    format!("{number:040x}").parse().expect("40 hexadecimal digits")
}

pub(super) fn result(outcome: Outcome) -> BuildResult {
    BuildResult {
        outcome,
        commit_sha: matches!(outcome, Outcome::Delivered).then(|| commit(2)),
        branch: main(),
        kept_ref: None,
        pull_request_url: None,
        files_changed: Vec::new(),
        files_changed_total: 0,
        agent: None,
        usage: Usage::default(),
        durations_ms: BTreeMap::from([("agent".to_owned(), 12)]),
        summary: "made the header blue".to_owned(),
        verify: Vec::new(),
        warnings: Vec::new(),
    }
}
