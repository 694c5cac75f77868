//! Values at the edges of what their types accept, and what small functions make of them.

use std::time::{Duration, SystemTime};

use rdev_domain::audit::{Actor, Who};
use rdev_domain::event::{MAX_EVENTS_PER_CLAIM, seq};
use rdev_domain::git::{Branch, CommitId, OwnRef, Tip};
use rdev_domain::git_url::{GitUrl, UrlPolicy};
use rdev_domain::hostname::Hostname;
use rdev_domain::ids::{Fence, KeyId, Owner, ProjectId, TaskId, WorkerId};
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::lease::{Holder, LEASE, Lease, Progress};
use rdev_domain::page::{Listed, Page};
use rdev_domain::pipeline::PipelineSummary;
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::project::{Project, ProjectPatch, ProjectState};
use rdev_domain::provision::{Provisioning, StepName, StepState};
use rdev_domain::result::Usage;
use rdev_domain::retention::Retention;
use rdev_domain::secret::Secret;
use rdev_domain::spec::{CheckSpec, Work};
use rdev_domain::task::{Priority, QueuePlace, Task, TaskState};
use rdev_domain::time::Timestamp;
use rdev_domain::webhook::{self, DeliveryState, Webhook, WebhookDelivery, WebhookUrl};
use rdev_domain::{Invalid, request, step};
use ulid::Ulid;

use super::sample::{self, NOW};

fn accepts<T: std::str::FromStr<Err = Invalid>>(text: &str) -> bool {
    text.parse::<T>().is_ok()
}

#[test]
fn texts_have_the_lengths_that_their_types_say() {
    let a = |count| "a".repeat(count);
    for (count, accepted) in [(0, false), (1, true), (40, true), (41, false)] {
        assert_eq!(accepts::<ProjectId>(&a(count)), accepted, "project id of {count}");
    }
    for (count, accepted) in [(11, false), (12, true), (13, false)] {
        assert_eq!(accepts::<KeyId>(&a(count)), accepted, "key id of {count}");
    }
    for (count, accepted) in [(0, false), (1, true), (253, true), (254, false)] {
        assert_eq!(accepts::<WorkerId>(&a(count)), accepted, "worker id of {count}");
    }
    for (count, accepted) in [(0, false), (1, true), (200, true), (201, false)] {
        assert_eq!(accepts::<Branch>(&a(count)), accepted, "branch of {count}");
    }
    for (count, accepted) in
        [(39, false), (40, true), (41, false), (63, false), (64, true), (65, false)]
    {
        assert_eq!(accepts::<CommitId>(&a(count)), accepted, "commit id of {count}");
    }
    for (count, accepted) in [(0, false), (1, true), (63, true), (64, false)] {
        assert_eq!(accepts::<Hostname>(&format!("{}.b", a(count))), accepted, "label of {count}");
    }
    let name = |count: usize| format!("{}.{}", "a.".repeat(120), a(count - 241));
    for (count, accepted) in [(252, true), (253, true), (254, false)] {
        assert_eq!(name(count).len(), count);
        assert_eq!(
            accepts::<Hostname>(&name(count).replace("..", ".a")),
            accepted,
            "name of {count}"
        );
    }
    for (count, accepted) in [(2000, true), (2001, false)] {
        let url = format!("https://h.example/{}", a(count - 18));
        assert_eq!(url.len(), count);
        assert_eq!(accepts::<GitUrl>(&url), accepted, "clone URL of {count}");
        assert_eq!(accepts::<WebhookUrl>(&url), accepted, "webhook URL of {count}");
    }
}

#[test]
fn ids_have_only_the_characters_that_their_types_say() {
    for bad in ["-a", "a-", "1a", "A", "a_b", "xn--a", "com1", "lpt0", "aux", "localhost"] {
        assert!(!accepts::<ProjectId>(bad), "{bad}");
    }
    for good in ["a-b", "a1", "com", "coma", "com12", "xcom1", "lptx", "xn-a", "auxx"] {
        assert!(accepts::<ProjectId>(good), "{good}");
    }
    assert!(accepts::<KeyId>("abcdef012345") && !accepts::<KeyId>("abcdef01234A"));
    for good in ["A.b_c-9", "-", "."] {
        assert!(accepts::<WorkerId>(good), "{good}");
    }
    for bad in ["a/b", "a b", "\u{e4}"] {
        assert!(!accepts::<WorkerId>(bad), "{bad}");
    }
    for bad in ["g", "A"] {
        assert!(!accepts::<CommitId>(&bad.repeat(40)), "{bad}");
    }
    assert!(accepts::<CommitId>(&"0123456789abcdef".repeat(4)));
    for bad in ["rdev/wip/a", "rdev/part/a", "rdev/kept/a", "refs/a", "a/.b", "a.lock/b", "a@{b"] {
        assert!(!accepts::<Branch>(bad), "{bad}");
    }
    for good in ["rdev/a", "rdev/wip", "xrefs/a", "a.locks", "a@b", "head", "@a"] {
        assert!(accepts::<Branch>(good), "{good}");
    }
    assert_eq!(Branch::main().full_name(), "refs/heads/main");
    for bad in ["a.1", "1.2.3.4", "b", "a_b.c", "A.b"] {
        assert!(!accepts::<Hostname>(bad), "{bad}");
    }
    assert!(accepts::<Hostname>("1.b2") && accepts::<Hostname>("0-0.xy"));
}

#[test]
fn owners_fences_and_refs_are_written_as_they_are_read() {
    let worker: WorkerId = "w.1".parse().expect("a worker id");
    let owner = Owner::new(&worker, "p");
    assert_eq!((owner.as_str(), owner.to_string()), ("w.1/p", "w.1/p".to_owned()));
    assert_eq!((Fence(4).next(), Fence(4).to_string()), (Fence(5), "4".to_owned()));
    let task = TaskId(Ulid::from_parts(1, 1));
    for own in [OwnRef::Wip(task, Fence(2)), OwnRef::Part(task, Fence(2)), OwnRef::Kept(task)] {
        assert_eq!(own.task(), task);
    }
    for other in [
        format!("refs/rdev/wip/{task}"),
        format!("refs/rdev/wip/{task}/x"),
        format!("refs/rdev/kept/{task}/1"),
        format!("refs/rdev/wip/{task}/1/2"),
        format!("refs/rdev/other/{task}/1"),
        format!("refs/tags/rdev/kept/{task}"),
    ] {
        assert_eq!(OwnRef::parse(&other), None, "{other}");
    }
    let commit = sample::commit(1);
    assert_eq!(Tip::Absent.to_string(), "absent");
    assert_eq!(Tip::Commit(commit.clone()).to_string(), commit.as_str());
    assert_eq!((seq(Fence(0), 3), seq(Fence(2), 3)), (3, 2 * MAX_EVENTS_PER_CLAIM + 3));
}

#[test]
fn a_policy_knows_where_each_range_of_addresses_ends() {
    let (closed, open) = (UrlPolicy::default(), UrlPolicy { allow_private: true, file_root: None });
    let check = |text: &str| {
        let address = text.parse().expect("an address");
        (closed.check_address(address).is_ok(), open.check_address(address).is_ok())
    };
    let (public, private, never) = ((true, true), (false, true), (false, false));
    for (text, class) in [
        ("0.255.255.255", never),
        ("1.0.0.0", public),
        ("9.255.255.255", public),
        ("10.0.0.0", private),
        ("11.0.0.0", public),
        ("99.64.0.1", public),
        ("100.63.255.255", public),
        ("100.64.0.0", private),
        ("100.127.255.255", private),
        ("100.128.0.0", public),
        ("126.255.255.255", public),
        ("127.255.255.255", private),
        ("169.253.255.255", public),
        ("169.254.0.0", never),
        ("172.15.255.255", public),
        ("172.16.0.0", private),
        ("172.32.0.0", public),
        ("223.255.255.255", public),
        ("224.0.0.0", never),
        ("240.0.0.0", never),
        ("255.255.255.255", never),
        ("2001:db8::1", public),
        ("fdff::1", private),
        ("fe80::1", never),
        ("fec0::1", private),
        ("feff::1", private),
        ("ff02::1", never),
        ("::", never),
        ("::1", private),
        ("::2", public),
        ("::7f00:1", private),
        ("64:ff9b::a00:1", private),
        ("64:ff9b:1::a00:1", public),
        ("2002:a00:1::", private),
        ("2003:a00:1::", public),
    ] {
        assert_eq!(check(text), class, "{text}");
    }
}

#[test]
fn a_folder_may_be_cloned_only_from_below_the_root() {
    let policy = UrlPolicy { allow_private: false, file_root: Some("/data/repos".into()) };
    let check = |text: &str| text.parse::<GitUrl>().expect(text).check(&policy).is_ok();
    assert!(check("file:///data/repos/a.git") && check("file:///data/repos/a/b.git"));
    for bad in ["file:///data/repos", "file:///data/reposx/a", "file:///data/a", "file:///etc/x"] {
        assert!(!check(bad), "{bad}");
    }
}

#[test]
fn a_page_has_a_next_one_only_when_there_is_one_more() {
    let page = Page { limit: 2, before: None };
    let listed = |count: u128| {
        let items: Vec<_> = (0..count).map(|n| Ulid::from_parts(1, 9 - n)).collect();
        Listed::from_one_more(items, &page, |id| *id)
    };
    assert_eq!((listed(0).items.len(), listed(0).next), (0, None));
    assert_eq!((listed(2).items.len(), listed(2).next), (2, None));
    assert_eq!((listed(3).items.len(), listed(3).next), (2, Some(Ulid::from_parts(1, 8))));
}

#[test]
fn times_are_compared_moved_and_written() {
    let (second, at) = (Duration::from_secs(1), Timestamp::from_millis(5000));
    assert_eq!((at.plus(second).as_millis(), at.minus(second).as_millis()), (6000, 4000));
    assert_eq!(at.since(Timestamp::from_millis(4999)), Duration::from_millis(1));
    assert_eq!((at.since(at), at.since(at.plus(second))), (Duration::ZERO, Duration::ZERO));
    let far = Timestamp::MAX;
    assert_eq!((far.plus(second), at.plus(Duration::MAX)), (far, far));
    assert_eq!(Timestamp::MIN.minus(second), Timestamp::MIN);
    assert_eq!(far.to_string(), "9999-12-30T22:00:00.000Z");
    let epoch = SystemTime::UNIX_EPOCH;
    assert_eq!(Timestamp::from(epoch + second).as_millis(), 1000);
    assert_eq!(Timestamp::from(epoch - second).as_millis(), -1000);
    assert_eq!(String::from(at), "1970-01-01T00:00:05.000Z");
    assert!(Timestamp::try_from("yesterday".to_owned()).is_err());
}

#[test]
fn records_expire_after_the_days_of_their_kind_and_zero_is_never() {
    let days = |count: u64| Some(NOW.plus(Duration::from_secs(count * 24 * 60 * 60)));
    let build = sample::task(1, NOW);
    let check = Task { work: Work::Check(CheckSpec::of(vec![])), ..build.clone() };
    let kept = Retention {
        builds_days: 3,
        tasks_days: 4,
        events_days: 5,
        audit_days: 6,
        idempotency_days: 7,
    };
    assert_eq!(kept.task_expires_at(&build, NOW), days(3));
    assert_eq!(kept.task_expires_at(&check, NOW), days(4));
    assert_eq!((kept.events_expire_at(NOW), kept.audit_expires_at(NOW)), (days(5), days(6)));
    assert_eq!(kept.pipeline_expires_at(NOW), days(3));
    let never = Retention { builds_days: 0, tasks_days: 0, events_days: 0, audit_days: 0, ..kept };
    for at in [
        never.task_expires_at(&build, NOW),
        never.task_expires_at(&check, NOW),
        never.events_expire_at(NOW),
        never.audit_expires_at(NOW),
        never.pipeline_expires_at(NOW),
    ] {
        assert_eq!(at, None);
    }
    assert_eq!(Some(request::expires_at(NOW, 7)), days(7));
    assert_eq!(Some(request::expires_at(NOW, 0)), days(1), "a request is remembered for a day");
    let Retention { builds_days, tasks_days, events_days, audit_days, idempotency_days } =
        Retention::default();
    let defaults = (builds_days, tasks_days, events_days, audit_days, idempotency_days);
    assert_eq!(defaults, (90, 7, 7, 400, 1));
}

#[test]
fn usage_adds_up_and_an_unknown_cost_stays_unknown() {
    let of = |n: u64, cost_usd| Usage {
        input_tokens: n,
        output_tokens: n * 10,
        cache_tokens: n * 100,
        cost_usd,
        turns: n * 1000,
    };
    assert_eq!(of(1, Some(0.5)).plus(of(2, Some(0.25))), of(3, Some(0.75)));
    assert_eq!(of(1, None).plus(of(2, None)), of(3, None));
    assert_eq!(of(1, None).plus(of(2, Some(0.5))), of(3, Some(0.5)));
    assert_eq!(of(1, Some(0.5)).plus(of(2, None)), of(3, Some(0.5)));
}

#[test]
fn a_key_allows_its_scopes_and_admin_allows_all() {
    let key = |scopes: &[Scope]| ApiKey {
        id: "abcdef012345".parse().expect("a key id"),
        name: String::new(),
        scopes: scopes.to_vec(),
        secret_sha256: String::new(),
        created_at: NOW,
        revoked_at: None,
    };
    for scope in Scope::ALL {
        assert!(key(&[Scope::Admin]).allows(scope));
        assert!(!key(&[]).allows(scope));
        assert_eq!(key(&[Scope::CiRead]).allows(scope), scope == Scope::CiRead);
        assert_eq!(scope.as_str().parse(), Ok(scope));
        assert_eq!(scope.to_string(), scope.as_str());
    }
    let unknown = "ci:all".parse::<Scope>().expect_err("no such scope");
    assert_eq!(unknown.to_string(), "scope is not one of the documented scopes");
}

#[test]
fn an_actor_is_recorded_with_what_it_is() {
    let worker: WorkerId = "w1".parse().expect("a worker id");
    let key = Who::Key("abcdef012345".parse().expect("a key id"));
    assert_eq!(Actor { who: key, request_id: None }.name(), "key:abcdef012345");
    assert_eq!(Actor::worker(worker).name(), "worker:w1");
    assert_eq!(Actor::maintenance().name(), "maintenance");
    assert_eq!(Actor::hook("gitea").name(), "hook:gitea");
}

#[test]
fn a_secret_is_shown_nowhere() {
    let secret = Secret::new("sesame");
    assert_eq!(
        (secret.expose(), format!("{secret} {secret:?}")),
        ("sesame", "[secret] [secret]".to_owned())
    );
}

#[test]
fn only_some_errors_may_go_away() {
    let error = || Invalid::new("x", "y");
    for passing in [
        PortError::unavailable("x", error()),
        PortError::TimedOut { what: "x" },
        PortError::Limited { what: "x", retry_after: None },
        PortError::Conflict(Conflict::Contended),
    ] {
        assert!(passing.is_transient(), "{passing}");
    }
    for lasting in [
        PortError::not_found("x"),
        PortError::Conflict(Conflict::IdTaken),
        PortError::NotSupported { what: "x" },
        PortError::Denied { what: "x".to_owned() },
        PortError::upstream("x", error()),
        PortError::broken("x", error()),
        PortError::Invalid(error()),
    ] {
        assert!(!lasting.is_transient(), "{lasting}");
    }
}

#[test]
fn a_priority_is_a_digit_and_puts_a_task_into_its_place() {
    assert!(Priority::try_from(9).is_ok() && Priority::try_from(10).is_err());
    assert_eq!(u8::from(Priority::default()), 5);
    let place = |state, priority: u8, available_at, held| {
        let priority = Priority::try_from(priority).expect("a digit");
        Task { state, priority, available_at, ..sample::task(1, NOW) }.queue_place(held, NOW)
    };
    let due = |class, hours: u64| {
        let rank = NOW.minus(Duration::from_secs(hours * 60 * 60));
        Some(QueuePlace::Due { class, rank, id: sample::task(1, NOW).id })
    };
    assert_eq!(place(TaskState::Queued, 9, NOW, false), due(1, 9));
    assert_eq!(place(TaskState::Queued, 0, NOW, false), due(1, 0));
    assert_eq!(place(TaskState::Pushing, 5, NOW, false), due(0, 5));
    let waited = NOW.minus(Duration::from_secs(60 * 60));
    assert_eq!(place(TaskState::Queued, 3, waited, false), due(1, 4));
    assert_eq!(place(TaskState::Pushing, 5, NOW, true), None);
    for state in TaskState::ALL {
        let waits = [TaskState::Queued, TaskState::Pushing].contains(&state);
        assert_eq!(place(state, 5, NOW, false).is_some(), waits, "{state:?}");
        let ended = [TaskState::Succeeded, TaskState::Failed, TaskState::Cancelled];
        assert_eq!(state.is_terminal(), ended.contains(&state), "{state:?}");
    }
    let later = NOW.plus(Duration::from_millis(1));
    let id = sample::task(1, NOW).id;
    assert_eq!(
        place(TaskState::Queued, 5, later, false),
        Some(QueuePlace::Later { at: later, id })
    );
    assert!(due(0, 0) < due(1, 9) && due(1, 9) < due(1, 8));
}

#[test]
fn a_project_is_ready_and_a_patch_changes_what_it_names() {
    let id = || "site".parse::<ProjectId>().expect("a slug");
    let project = Project::new(id(), Ulid::from_parts(1, 1), NOW);
    assert_eq!((project.state, project.build_limit), (ProjectState::Ready, 1));
    assert_eq!((project.default_branch.as_str(), project.next_step()), ("main", None));
    let later = NOW.plus(Duration::from_secs(1));
    let same = project.clone().patched(ProjectPatch::default(), later);
    assert_eq!(same, Project { updated_at: later, ..project.clone() });
    let steps = Provisioning::of(&[StepName::Ci], None, NOW);
    let patch = ProjectPatch {
        description: Some("new".to_owned()),
        build_limit: Some(7),
        state: Some(ProjectState::Deleting),
        provisioning: Some(steps.clone()),
        forge_id: Some(3),
        ..ProjectPatch::default()
    };
    let changed = project.patched(patch, later);
    assert_eq!((changed.description.as_str(), changed.build_limit), ("new", 7));
    assert_eq!((changed.state, changed.forge_id), (ProjectState::Deleting, Some(3)));
    assert_eq!((changed.next_step(), changed.created_at), (Some(StepName::Ci), NOW));
    let failed = steps.with(StepName::Ci, Some("away"), later);
    assert_eq!((failed.steps[0].state, failed.steps[0].at), (StepState::Failed, later));
    assert_eq!(failed.steps[0].error.as_deref(), Some("away"));
    assert_eq!(steps.with(StepName::Domain, None, later), steps, "it has no such step");
}

#[test]
fn a_webhook_is_signed_with_24_to_64_bytes() {
    let secret = |bytes: usize| {
        // Three bytes are four characters of base64.
        let tail = ["", "AA==", "AAA="][bytes % 3];
        Webhook::secret(&format!("whsec_{}{tail}", "AAAA".repeat(bytes / 3))).is_ok()
    };
    assert!(!secret(23) && secret(24) && secret(25) && secret(64) && !secret(65));
}

#[test]
fn a_delivery_says_what_became_of_its_build() {
    let of = |state| {
        let task = Task { state, notify: true, ..sample::task(1, NOW) };
        WebhookDelivery::of(&task, Ulid::nil(), NOW)
    };
    let event = |state| of(state).map(|delivery| delivery.event);
    assert_eq!(event(TaskState::Succeeded).as_deref(), Some("build.succeeded"));
    assert_eq!(event(TaskState::Failed).as_deref(), Some("build.failed"));
    assert_eq!(event(TaskState::Cancelled).as_deref(), Some("build.cancelled"));
    for state in [TaskState::Queued, TaskState::Running, TaskState::Pushing] {
        assert_eq!(event(state), None);
    }
    let new = of(TaskState::Failed).expect("a delivery");
    assert_eq!((new.state, new.tries, new.next_at), (DeliveryState::Pending, 0, Some(NOW)));
    let later = |seconds| Some(NOW.plus(Duration::from_secs(seconds)));
    let first = new.begun(NOW);
    assert_eq!((first.tries, first.next_at), (1, later(30)), "twice as long as a try may take");
    assert_eq!(first.begun(NOW).next_at, later(300));
    for (status, state) in [
        (199, DeliveryState::Pending),
        (200, DeliveryState::Delivered),
        (299, DeliveryState::Delivered),
        (300, DeliveryState::Pending),
        (409, DeliveryState::Pending),
        (410, DeliveryState::Failed),
    ] {
        assert_eq!(first.ended(Some(status), None, NOW).state, state, "{status}");
    }
    let failed = first.ended(None, Some("no answer".to_owned()), NOW);
    assert_eq!((failed.next_at, failed.error.as_deref()), (later(5), Some("no answer")));
    let dropped = first.dropped("no webhook", NOW);
    assert_eq!((dropped.state, dropped.next_at), (DeliveryState::Failed, None));
    assert_eq!(dropped.error.as_deref(), Some("no webhook"));
}

#[test]
fn pipelines_are_ordered_by_their_time_and_then_by_their_number() {
    let of = |millis, number| PipelineSummary {
        number,
        status: String::new(),
        event: String::new(),
        commit: String::new(),
        branch: String::new(),
        message: String::new(),
        task_id: None,
        author: String::new(),
        created_at: Timestamp::from_millis(millis),
        started_at: None,
        finished_at: None,
        url: None,
    };
    assert!(of(1, 9).place() < of(2, 1).place() && of(2, 1).place() < of(2, 2).place());
    assert_eq!(of(-1, 3).place(), Ulid::from_parts(0, 3));
}

#[test]
fn a_renewal_keeps_the_usage_unless_it_brings_a_newer_one() {
    let now = Timestamp::from_millis(5000);
    let owner = Owner::new(&"w1".parse().expect("a worker id"), "process");
    let holder = Holder { fence: Fence(1), owner: owner.clone() };
    let usage = |cost| Usage { cost_usd: Some(cost), ..Usage::default() };
    let used = |cost| Progress { usage: Some(usage(cost)), ..Progress::default() };
    let taken = Lease::taken(Fence(1), owner, now);
    let first = taken.renewed(&holder, used(1.0), now).expect("its holder renews it");
    assert_eq!(first.usage, usage(1.0));
    let second = first.renewed(&holder, Progress::default(), now).expect("its holder renews it");
    assert_eq!((second.usage, second.heartbeat), (usage(1.0), 2));
    let third = second.renewed(&holder, used(2.0), now).expect("its holder renews it");
    assert_eq!(third.usage, usage(2.0));
}

#[test]
fn the_spans_are_those_that_the_documents_promise() {
    let (hour, day) = (60 * 60, 24 * 60 * 60);
    for (span, seconds) in [
        (LEASE, 45),
        (step::MAX_PUSH_TIME, 2 * hour),
        (step::MIN_PARK, 30),
        (step::MAX_PARK, 7 * day),
        (step::MAX_PARKED, 14 * day),
        (webhook::KEPT, 30 * day),
    ] {
        assert_eq!(span, Duration::from_secs(seconds));
    }
}
