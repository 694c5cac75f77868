//! Projects.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, IntoStaticStr, VariantArray};
use ulid::Ulid;
use utoipa::ToSchema;

use crate::git::{Branch, CommitId};
use crate::git_url::GitUrl;
use crate::ids::ProjectId;
use crate::names::names;
use crate::pipeline::CiId;
use crate::provision::{ProvisionStep, Provisioning, StepName};
use crate::pull_request::{Deliver, PullRequestOptions};
use crate::spec::BuildSpec;
use crate::task::Task;
use crate::time::Timestamp;
use crate::webhook::WebhookUrl;

/// When a project has been `provisioning` or `deleting` for this long without a change, whoever
/// did that has died: the sweep takes over.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(2 * 60);

/// A project: a repository, and what builds of it have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Project {
    /// Its id, which is also its name.
    pub id: ProjectId,
    /// For people, at most 1,000 characters.
    pub description: String,
    /// The template its repository started from.
    pub template: Option<String>,
    /// Its repository; absent while it is provisioned, and for a project
    /// whose builds name their own.
    pub git_url: Option<GitUrl>,
    /// The branch that builds use unless they name another.
    pub default_branch: Branch,
    /// How many of its tasks may run or push at once: 1 to 100, 1 by default.
    pub build_limit: u32,
    /// How builds deliver unless they say so themselves: `branch` by default.
    #[serde(default)]
    pub deliver: Deliver,
    /// What is set on the pull requests of builds that do not say so themselves.
    #[serde(default, skip_serializing_if = "PullRequestOptions::is_empty")]
    pub pull_request_options: PullRequestOptions,
    /// Whether it takes builds.
    pub state: ProjectState,
    /// What is made for it outside of rdev, and how far that is.
    #[serde(default)]
    #[schema(value_type = Vec<ProvisionStep>)]
    pub provisioning: Provisioning,
    /// Its repository's id on the forge, where rdev made it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forge_id: Option<u64>,
    /// Its repository at the CI server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ci_id: Option<CiId>,
    /// Who is told when a build ends. The secret that signs it is never shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook_url: Option<WebhookUrl>,
    /// The latest push that the forge told of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Pushed>,
    /// What the forge has told of the repository's branches and tags: shows whether its messages
    /// arrive at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub messages: Option<Messages>,
    /// How it is being deleted: what the newest request for that asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// Which request made it: tells that request, repeated, from another one.
    #[serde(default)]
    #[schema(ignore)]
    pub nonce: Ulid,
}

/// A push to a project's repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Pushed {
    /// The branch.
    pub branch: Branch,
    /// Its new tip.
    pub commit: CommitId,
    /// When the forge told of it.
    pub at: Timestamp,
}

/// The messages of pushes that the forge has sent: also of tags, of branches that were deleted, and
/// of test messages. Those of statuses are not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Messages {
    /// How many came.
    pub count: u64,
    /// When the last one came.
    pub last_at: Timestamp,
}

/// Where a project is in its life.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case")]
pub enum ProjectState {
    /// Its repository is being made.
    Provisioning,
    /// It takes builds.
    Ready,
    /// Its repository could not be made.
    ProvisioningFailed,
    /// It is being deleted and takes nothing new.
    Deleting,
}

names!(ProjectState);

/// What a deletion does with the project's repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Deletion {
    /// It stays.
    KeepRepository,
    /// It is deleted; rdev made it.
    DeleteRepository,
}

/// How far a project is: what whoever provisions or deletes it has seen, and bases a change on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Distinguishes the project from another one of its name.
    pub nonce: Ulid,
    /// Its state.
    pub state: ProjectState,
    /// Its steps.
    pub provisioning: Provisioning,
}

/// A change of a project; absent fields stay as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProjectPatch {
    /// Nothing changes unless the project is still at this stage.
    pub expected: Option<Stage>,
    /// A new description.
    pub description: Option<String>,
    /// Another default branch.
    pub default_branch: Option<Branch>,
    /// Another limit; raising it sends a wake-up.
    pub build_limit: Option<u32>,
    /// Another way to deliver.
    pub deliver: Option<Deliver>,
    /// Other options of pull requests; absent ones stay.
    pub pull_request_options: PullRequestOptions,
    /// The repository, once it has been made.
    pub git_url: Option<GitUrl>,
    /// Another state. Nothing leaves `deleting`.
    pub state: Option<ProjectState>,
    /// How far its provisioning is.
    pub provisioning: Option<Provisioning>,
    /// Its repository's id on the forge.
    pub forge_id: Option<u64>,
    /// Its repository at the CI server.
    pub ci_id: Option<CiId>,
    /// A push that the forge told of.
    pub pushed: Option<Pushed>,
    /// When a message of the forge came, to be counted.
    pub message_at: Option<Timestamp>,
}

impl Project {
    /// A project that is `ready`, with one slot, the branch `main`, and no repository.
    pub fn new(id: ProjectId, nonce: Ulid, now: Timestamp) -> Self {
        Self {
            id,
            description: String::new(),
            template: None,
            git_url: None,
            default_branch: Branch::main(),
            build_limit: 1,
            deliver: Deliver::default(),
            pull_request_options: PullRequestOptions::default(),
            state: ProjectState::Ready,
            provisioning: Provisioning::default(),
            forge_id: None,
            ci_id: None,
            webhook_url: None,
            pushed: None,
            messages: None,
            deletion: None,
            created_at: now,
            updated_at: now,
            nonce,
        }
    }

    /// Whether the record with this id and this `project_nonce` is this project's, and not that of
    /// an earlier project of the same name. Where an earlier version wrote no nonce (nil), what is
    /// younger than the project is its own.
    pub fn owns(&self, project_nonce: Ulid, record: Ulid) -> bool {
        if project_nonce.is_nil() { record >= self.nonce } else { project_nonce == self.nonce }
    }

    /// Whether the task is this project's. See [`Project::owns`].
    pub fn owns_task(&self, task: &Task) -> bool {
        task.project_id == self.id && self.owns(task.project_nonce, task.id.0)
    }

    /// Settles what a build leaves to its project. All its attempts deliver in one way and to one
    /// branch, also when the project's settings change.
    pub fn settle(&self, spec: &mut BuildSpec) {
        spec.branch.get_or_insert_with(|| self.default_branch.clone());
        let by_default = self.deliver == Deliver::PullRequest && spec.auto_commit && spec.auto_push;
        if *spec.pull_request.get_or_insert(by_default) {
            let own = std::mem::take(&mut *spec.pull_request_options);
            *spec.pull_request_options = own.or(&self.pull_request_options).complete();
        }
    }

    /// What is to be made for it next outside of rdev.
    pub fn next_step(&self) -> Option<StepName> {
        // Projects of versions that noted no steps: they had none but this one.
        let unnoted = self.provisioning.steps.is_empty();
        let repository = unnoted && self.template.is_some() && self.git_url.is_none();
        repository.then_some(StepName::Repository).or_else(|| self.provisioning.next())
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        Stage { nonce: self.nonce, state: self.state, provisioning: self.provisioning.clone() }
    }

    /// Whether a change that expects this stage (`None`: any) may be made.
    pub fn is_at(&self, expected: Option<&Stage>) -> bool {
        expected.is_none_or(|stage| *stage == self.stage())
    }

    /// The project as its deletion begins, or goes on with another wish.
    #[must_use]
    pub fn deleting(self, deletion: Deletion, now: Timestamp) -> Self {
        let state = ProjectState::Deleting;
        Self { state, deletion: Some(deletion), updated_at: now, ..self }
    }

    /// The project after a change.
    #[must_use]
    pub fn patched(self, patch: ProjectPatch, now: Timestamp) -> Self {
        let counted = |last_at: Timestamp| {
            let count = self.messages.map_or(0, |messages| messages.count).saturating_add(1);
            Messages { count, last_at }
        };
        Self {
            messages: patch.message_at.map(counted).or(self.messages),
            description: patch.description.unwrap_or(self.description),
            default_branch: patch.default_branch.unwrap_or(self.default_branch),
            build_limit: patch.build_limit.unwrap_or(self.build_limit),
            deliver: patch.deliver.unwrap_or(self.deliver),
            pull_request_options: patch.pull_request_options.or(&self.pull_request_options),
            git_url: patch.git_url.or(self.git_url),
            state: patch.state.unwrap_or(self.state),
            provisioning: patch.provisioning.unwrap_or(self.provisioning),
            forge_id: patch.forge_id.or(self.forge_id),
            ci_id: patch.ci_id.or(self.ci_id),
            pushed: patch.pushed.or(self.pushed),
            updated_at: now,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_project_of_a_version_without_steps_still_gets_its_repository_and_then_nothing() {
        let mut project: Project = serde_json::from_value(serde_json::json!({
            "id": "site", "description": "", "template": "static", "git_url": null,
            "default_branch": "main", "build_limit": 1, "state": "provisioning_failed",
            "created_at": "2026-01-01T12:00:00.000Z", "updated_at": "2026-01-01T12:00:00.000Z",
        }))
        .expect("as it was written");
        assert_eq!(project.next_step(), Some(StepName::Repository));
        project.git_url = "https://git.example.com/a/site.git".parse().ok();
        assert_eq!(project.next_step(), None);
        assert_eq!(project.deliver, Deliver::Branch);
    }

    #[test]
    fn a_build_gets_from_its_project_what_it_does_not_say() {
        let (id, now) = ("site".parse().expect("a slug"), Timestamp::from_millis(0));
        let mut project = Project::new(id, Ulid::nil(), now);
        let settled = |project: &Project, change: fn(&mut BuildSpec)| {
            let mut spec = BuildSpec::of("x");
            change(&mut spec);
            project.settle(&mut spec);
            spec
        };
        let plain = settled(&project, |_| {});
        assert_eq!((plain.branch, plain.pull_request), (Some(Branch::main()), Some(false)));
        assert!(plain.pull_request_options.is_empty());

        project.deliver = Deliver::PullRequest;
        project.pull_request_options.draft = Some(true);
        let opens = settled(&project, |_| {});
        assert!(opens.opens_pull_request());
        let expected =
            PullRequestOptions { labels: Some(vec![]), draft: Some(true), reviewers: Some(vec![]) };
        assert_eq!(*opens.pull_request_options, expected);
        let own = settled(&project, |spec| spec.pull_request_options.draft = Some(false));
        assert_eq!(own.pull_request_options.draft, Some(false));
        let mut again = opens.clone();
        Project { deliver: Deliver::Branch, ..project.clone() }.settle(&mut again);
        assert_eq!(again, opens, "what is settled stays");
        for refuses in [
            |spec: &mut BuildSpec| spec.pull_request = Some(false),
            |spec: &mut BuildSpec| spec.auto_push = false,
            |spec: &mut BuildSpec| spec.auto_commit = false,
        ] {
            let spec = settled(&project, refuses);
            assert_eq!(spec.pull_request, Some(false));
            assert!(spec.pull_request_options.is_empty());
        }
    }
}
