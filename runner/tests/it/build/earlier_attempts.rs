//! Attempts that died halfway, simulated by hand: how a later attempt continues from their work.

use rdev_domain::audit::Actor;
use rdev_domain::failure::{Failure, FailureClass};
use rdev_domain::git::{OwnRef, RecordedRef};
use rdev_domain::outbox;
use rdev_domain::result::Outcome;
use rdev_domain::step::Event;

use crate::build::ghost::{Ghost, agent_ran, commits_of, forbidden};
use crate::build::outcomes::{appears, wait_script};
use crate::world::{World, git, now, person_commits};

#[tokio::test(flavor = "multi_thread")]
async fn finished_work_of_a_dead_attempt_is_adopted_before_any_agent_starts() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!(result.commit_sha, Some(commit));
    assert_eq!((result.outcome, agent_ran(&world)), (Outcome::Delivered, false));
    assert_eq!(result.files_changed[0].path, "a");
    let task = world.task(id).await.task;
    assert_eq!((task.attempt, task.push_attempt), (1, 1), "no agent ran in the second one");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_at_its_kept_ref_is_not_made_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build_with(&site, &forbidden(&world), |spec| spec.auto_push = false).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &format!("refs/rdev/kept/{id}")).await;
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(result.outcome, Outcome::CommittedNotPushed);
    let task = world.task(id).await.task;
    assert_eq!((task.attempt, task.push_attempt), (1, 1), "no agent ran in the second one");
    assert_eq!(git(&world.repository(&site), &["show", "main:a"]), "1");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_work_is_rebased_when_the_branch_has_moved() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    ghost.commits("a", "2\n", &ghost.wip()).await;
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
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
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
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    ghost.lands(&commit, "main");
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
    let late = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&late).await;
    // Its push conflicts (so the wip ref is out of date), yet a repeat of it is still under way.
    let failure = Failure::new(FailureClass::Conflict, "does not apply");
    ghost
        .tells(Event::Fail {
            holder: ghost.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
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
    let late = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&late).await;
    let failure = Failure::new(FailureClass::PushRejected, "refused");
    ghost
        .tells(Event::Fail {
            holder: ghost.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
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
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    let failure = Failure::new(FailureClass::PushRejected, "refused");
    ghost
        .tells(Event::Fail {
            holder: ghost.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
    let running = world.run();
    let retry = world.retry(id).await;
    let result = world.succeeded(retry).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_commit_that_is_nowhere_is_made_again_where_pushes_are_not_atomic() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares_on(&commit, "main", false).await;
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
async fn a_ticket_that_somebody_deleted_is_in_doubt_and_a_retry_begins_a_new_lineage() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "-d", &ghost.wip()]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "history_rewritten");
    let failed = world.task(id).await.task;
    assert!(failed.failure.is_some_and(|failure| failure.push_in_doubt));
    assert_eq!(git(&repository, &["show", "main:a"]), "1", "it is not pushed again");
    let retry = world.retry(id).await;
    assert_eq!(world.succeeded(retry).await.outcome, Outcome::Delivered);
    assert_eq!(world.task(retry).await.task.lineage, retry);
    assert_eq!(git(&repository, &["show", "main:a"]), "3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_landed_and_was_rewound_is_not_pushed_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let before = git(&repository, &["rev-parse", "main"]);
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    git(&repository, &["config", "core.logAllRefUpdates", "always"]);
    ghost.lands(&commit, "main");
    git(&repository, &["update-ref", "refs/heads/main", &before]);
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!(result.commit_sha, Some(commit));
    assert_eq!(result.warnings[0].code, "branch_rewritten");
    assert_eq!((git(&repository, &["rev-parse", "main"]), agent_ran(&world)), (before, false));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_that_was_merged_and_its_branch_deleted_is_not_pushed_again() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id =
        world.build_with(&site, &forbidden(&world), |spec| spec.pull_request = Some(true)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    let head = format!("rdev/{id}");
    ghost.prepares_on(&commit, &head, true).await;
    ghost.lands(&commit, &head);
    git(&repository, &["update-ref", "refs/heads/main", commit.as_str()]);
    git(&repository, &["update-ref", "-d", &format!("refs/heads/{head}")]);
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    let branches = git(&repository, &["for-each-ref", "--format=%(refname)", "refs/heads"]);
    assert_eq!(branches, "refs/heads/main", "the branch is not made again");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_person_brought_in_while_its_ticket_was_there_takes_the_ticket_away() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "refs/heads/main", commit.as_str()]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.succeeded(id).await.commit_sha, Some(commit));
    let tickets = git(&repository, &["for-each-ref", "refs/rdev/wip"]);
    assert_eq!((tickets.as_str(), agent_ran(&world)), ("", false));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ref_that_the_store_has_not_recorded_is_nobody_s_finished_work() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let (clone, stranger) = ghost.makes("a", "stranger\n");
    for name in [
        format!("rdev/wip/{id}/999"),
        format!("rdev/wip/{id}/1"),
        format!("rdev/wip/{id}/3"),
        format!("rdev/kept/{id}"),
    ] {
        git(clone.path(), &["push", "-q", "origin", &format!("HEAD:refs/{name}")]);
    }
    // What it recorded has another value.
    let (_other, mine) = ghost.makes("a", "mine\n");
    ghost.records(OwnRef::Wip(id, ghost.claimed.task.fence), &mine).await;
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(id).await;
    assert_ne!(result.commit_sha, Some(stranger));
    assert_eq!(git(&repository, &["show", "main:a"]), "3");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_take_over_that_was_not_prepared_yet_is_continued() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    let failure = Failure::new(FailureClass::PushRejected, "refused, and not revoked");
    ghost
        .tells(Event::Fail {
            holder: ghost.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
    let (old, retry) = (ghost.wip(), world.retry(id).await);
    let ghost = Ghost::claims(&world, &site).await;
    assert_eq!(ghost.id(), retry);
    let mut refs = ghost.claimed.task.own_refs.clone();
    let mine = OwnRef::Wip(retry, ghost.claimed.task.fence);
    refs.push(RecordedRef { may_land: true, ..RecordedRef::of(mine, commit.clone()) });
    ghost.records_all(&refs).await;
    git(&repository, &["update-ref", &ghost.wip(), commit.as_str()]);
    git(&repository, &["update-ref", "-d", &old, commit.as_str()]);
    ghost.dies().await;
    let running = world.run();
    let result = world.succeeded(retry).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(commits_of(&world, &site, id), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_that_was_never_prepared_and_comes_late_is_not_pushed_after_a_landing() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let before = git(&repository, &["rev-parse", "main"]);
    let id = world.build(&site, &forbidden(&world)).await;
    let first = Ghost::claims(&world, &site).await;
    let (clone, late) = first.makes("a", "late\n");
    first.records(OwnRef::Wip(id, first.claimed.task.fence), &late).await;
    let late_ticket = first.wip();
    first.dies().await;
    let second = Ghost::claims(&world, &site).await;
    let mut refs = second.claimed.task.own_refs.clone();
    assert_eq!(refs.len(), 1, "what the first one was about to write");
    let (other, commit) = second.makes("a", "2\n");
    refs.push(RecordedRef::of(OwnRef::Wip(id, second.claimed.task.fence), commit.clone()));
    second.records_all(&refs).await;
    git(other.path(), &["push", "-q", "origin", &format!("HEAD:{}", second.wip())]);
    second.prepares(&commit).await;
    git(clone.path(), &["push", "-q", "origin", &format!("HEAD:{late_ticket}")]);
    second.lands(&commit, "main");
    git(&repository, &["update-ref", "refs/heads/main", &before]);
    second.dies().await;
    let running = world.run();
    let (class, _) = world.failed(id).await;
    assert_eq!(class, "history_rewritten", "nobody can tell whether it had landed");
    assert_eq!((git(&repository, &["rev-parse", "main"]), agent_ran(&world)), (before, false));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_that_was_not_reported_ends_the_task_as_it_was_recorded() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    let fence = ghost.claimed.task.fence;
    let ticket = RecordedRef::of(OwnRef::Wip(id, fence), commit.clone());
    let moved = RecordedRef {
        revoked_for: Some(FailureClass::PushRejected),
        ..RecordedRef::of(OwnRef::Revoked(id, fence), commit.clone())
    };
    let refs = [RecordedRef { may_land: true, ..ticket }, moved.clone()];
    ghost.records_all(&refs).await;
    let name = format!("refs/{}", moved.own.path());
    git(&repository, &["update-ref", &name, commit.as_str()]);
    git(&repository, &["update-ref", "-d", &ghost.wip()]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "push_rejected");
    let failed = world.task(id).await.task;
    assert!(!failed.failure.is_some_and(|failure| failure.push_in_doubt));
    // A retry takes the revoked commit over.
    let retry = world.retry(id).await;
    let result = world.succeeded(retry).await;
    assert_eq!((result.commit_sha, agent_ran(&world)), (Some(commit), false));
    assert_eq!(git(&repository, &["for-each-ref", "refs/rdev"]), "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_whose_history_lost_the_scan_base_fails_and_a_retry_starts_over() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, "echo 3 > a").await;
    let ghost = Ghost::claims(&world, &site).await;
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
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
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
    ghost.prepares(&commit).await;
    git(&repository, &["update-ref", "-d", "refs/heads/main"]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "history_rewritten");
    assert_eq!(git(&repository, &["for-each-ref", "refs/heads"]), "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn adopted_work_does_not_bring_a_deleted_branch_back_with_its_history() {
    let world = World::new();
    let site = world.project("site", &[("a", "1\n")]).await;
    let repository = world.repository(&site);
    let id = world.build(&site, &forbidden(&world)).await;
    let ghost = Ghost::claims(&world, &site).await;
    // Not prepared: the store has no scan base that would tell that the branch was there.
    ghost.commits("a", "2\n", &ghost.wip()).await;
    git(&repository, &["update-ref", "-d", "refs/heads/main"]);
    ghost.dies().await;
    let running = world.run();
    assert_eq!(world.failed(id).await.0, "history_rewritten");
    assert_eq!(git(&repository, &["for-each-ref", "refs/heads"]), "");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_request_follows_its_base_that_was_rewound_and_brings_nothing_back() {
    for prepared in [false, true] {
        let world = World::new();
        let site = world.project("site", &[("a", "1\n")]).await;
        let repository = world.repository(&site);
        let before = git(&repository, &["rev-parse", "main"]);
        person_commits(&repository, "main", "secret", "taken back\n");
        let id = world
            .build_with(&site, &forbidden(&world), |spec| spec.pull_request = Some(true))
            .await;
        let ghost = Ghost::claims(&world, &site).await;
        let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
        let head = format!("rdev/{id}");
        if prepared {
            ghost.prepares_on(&commit, &head, true).await;
        }
        git(&repository, &["update-ref", "refs/heads/main", &before]);
        ghost.dies().await;
        let running = world.run();
        let result = world.succeeded(id).await;
        let delivered = result.commit_sha.expect("a commit");
        assert_eq!(git(&repository, &["rev-parse", &format!("{head}^")]), before, "{prepared}");
        assert_eq!(git(&repository, &["rev-parse", &head]), delivered.as_str());
        assert_eq!(git(&repository, &["show", &format!("{head}:a")]), "2");
        assert!(!agent_ran(&world), "the work is the earlier attempt's");
        running.stop().await;
    }
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
    let commit = ghost.commits("a", "2\n", &ghost.wip()).await;
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
    ghost.commits("a", "2\n", &ghost.wip()).await;
    let failure = Failure::new(FailureClass::VerifyFailed, "not good enough");
    ghost
        .tells(Event::Fail {
            holder: ghost.holder(),
            failure,
            usage: None,
            revoked: false,
            left: None,
        })
        .await;
    let running = world.run();
    let retry = world.retry(id).await;
    world.succeeded(retry).await;
    let repository = world.repository(&site);
    assert_eq!(git(&repository, &["show", "main:b"]), "anew");
    assert_eq!(git(&repository, &["show", "main:a"]), "1");
    running.stop().await;
}
