//! Pipelines: the latest report of each commit.

use rdev_domain::git::CommitId;
use rdev_domain::ids::ProjectId;
use rdev_domain::pipeline::CommitPipeline;
use rdev_domain::retention::Retention;

use super::cases;
use super::world::{DAY, HOUR, MINUTE, SECOND, World, commit, race};

const FOR_EVER: Retention =
    Retention { builds_days: 0, tasks_days: 1, events_days: 1, audit_days: 1, idempotency_days: 1 };

cases! {
    a_reported_pipeline_reads_back;
    the_later_of_two_reports_is_kept_in_whatever_order_they_come;
    of_reports_at_once_the_latest_is_kept;
    a_pipeline_goes_after_ninety_days;
    a_pipeline_stays_where_builds_do with FOR_EVER;
}

async fn a_reported_pipeline_reads_back(w: World) {
    let (mine, other) = (w.project().await, w.project().await);
    assert_eq!(read(&w, &mine, &commit(1)).await, None);
    let full = CommitPipeline {
        number: Some(7),
        url: Some("https://ci.example.com/repos/1/pipeline/7".to_owned()),
        ..report(&w, &mine, "running")
    };
    w.store.record_pipeline(&full, w.now()).await.expect("it is kept");
    assert_eq!(read(&w, &mine, &full.commit).await, Some(full.clone()));
    assert_eq!(read(&w, &mine, &commit(2)).await, None);
    assert_eq!(read(&w, &other, &full.commit).await, None);

    let bare = report(&w, &other, "ü \"odd\"");
    w.store.record_pipeline(&bare, w.now()).await.expect("it is kept");
    assert_eq!(read(&w, &other, &bare.commit).await, Some(bare));
    assert_eq!(read(&w, &mine, &full.commit).await, Some(full));
}

async fn the_later_of_two_reports_is_kept_in_whatever_order_they_come(w: World) {
    let project = w.project().await;
    let first = report(&w, &project, "pending");
    let second = CommitPipeline { at: first.at.plus(SECOND), ..report(&w, &project, "running") };
    w.pass(MINUTE);
    for (told, kept) in [(&second, &second), (&first, &second), (&second, &second)] {
        w.store.record_pipeline(told, w.now()).await.expect("an answer");
        assert_eq!(read(&w, &project, &first.commit).await.as_ref(), Some(kept));
        w.pass(MINUTE);
    }
    // Of the same time: what comes later is later.
    let third = CommitPipeline { status: "success".to_owned(), ..second };
    w.store.record_pipeline(&third, w.now()).await.expect("an answer");
    assert_eq!(read(&w, &project, &first.commit).await, Some(third));
}

async fn of_reports_at_once_the_latest_is_kept(w: World) {
    for _ in 0..5 {
        let project = w.project().await;
        let reports: Vec<_> = (0..6)
            .map(|number| CommitPipeline {
                at: w.now().plus(SECOND * number),
                number: Some(number.into()),
                ..report(&w, &project, "running")
            })
            .collect();
        let told = race(reports.len(), |number| {
            let (w, report) = (w.clone(), reports[(number * 5) % 6].clone());
            async move { w.store.record_pipeline(&report, w.now()).await }
        });
        for answer in told.await {
            answer.expect("an answer");
        }
        assert_eq!(read(&w, &project, &commit(1)).await, reports.last().cloned());
    }
}

async fn a_pipeline_goes_after_ninety_days(w: World) {
    let project = w.project().await;
    let early = report(&w, &project, "pending");
    w.store.record_pipeline(&early, w.now()).await.expect("it is kept");
    w.pass(DAY);
    let last = report(&w, &project, "success");
    w.store.record_pipeline(&last, w.now()).await.expect("it is kept");
    w.pass(90 * DAY - HOUR);
    w.sweep().await;
    assert_eq!(read(&w, &project, &last.commit).await, Some(last.clone()));
    w.pass(HOUR + SECOND);
    w.sweep_what_expired().await;
    assert_eq!(read(&w, &project, &last.commit).await, None);
    // It does not stand in the way of a later report.
    w.store.record_pipeline(&early, w.now()).await.expect("it is kept");
    assert_eq!(read(&w, &project, &early.commit).await, Some(early));
}

async fn a_pipeline_stays_where_builds_do(w: World) {
    let project = w.project().await;
    let told = report(&w, &project, "success");
    w.store.record_pipeline(&told, w.now()).await.expect("it is kept");
    w.pass(4000 * DAY);
    w.sweep().await;
    assert_eq!(read(&w, &project, &told.commit).await, Some(told));
}

/// What is so now of the first commit.
fn report(w: &World, project: &ProjectId, status: &str) -> CommitPipeline {
    CommitPipeline {
        project_id: project.clone(),
        commit: commit(1),
        number: None,
        status: status.to_owned(),
        url: None,
        at: w.now(),
    }
}

async fn read(w: &World, project: &ProjectId, commit: &CommitId) -> Option<CommitPipeline> {
    w.store.pipeline(project, commit).await.expect("an answer")
}
