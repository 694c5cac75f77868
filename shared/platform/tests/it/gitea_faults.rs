//! What the Gitea adapter makes of each way in which each of its calls can go wrong: the kind of
//! error, that the token went nowhere else, and that nothing half-made stays half-made.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdev_domain::ports::{
    Conflict, Forge, NewRepository, PortError, PortResult, PullRequest, Start,
};
use rdev_platform::gitea::Gitea;
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::gitea::{self, TOKEN};

use crate::gitea::{acme, hasty, ours, seed, wanted};
use crate::gitea_around::{pull_of, status};

rdev_testkit::trials! {
    async making_a_repository;
    async finding_a_repository_that_was_made_before;
    async copying_a_template_repository;
    async deleting_a_repository;
    async opening_a_pull_request;
    async setting_a_status;
}

/// A kind of error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Fine,
    Unavailable,
    TimedOut,
    Limited,
    Upstream,
    Denied,
    Invalid,
    NotOurs,
    Contended,
}

impl Kind {
    fn of<T: std::fmt::Debug>(outcome: &PortResult<T>) -> Self {
        match outcome {
            Ok(_) => Self::Fine,
            Err(PortError::Unavailable { .. }) => Self::Unavailable,
            Err(PortError::TimedOut { .. }) => Self::TimedOut,
            Err(PortError::Limited { retry_after, .. }) => {
                assert_eq!(retry_after.map(|time| time.as_secs()), Some(7));
                Self::Limited
            }
            Err(PortError::Upstream { .. }) => Self::Upstream,
            Err(PortError::Denied { .. }) => Self::Denied,
            Err(PortError::Invalid(_)) => Self::Invalid,
            Err(PortError::Conflict(Conflict::RepositoryNotOurs)) => Self::NotOurs,
            Err(PortError::Conflict(Conflict::Contended)) => Self::Contended,
            Err(other) => panic!("{other:?}"),
        }
    }

    /// What a fault is for a call about which nothing special is known.
    fn usual(fault: &Fault) -> Self {
        match fault {
            Fault::Refused | Fault::Gone | Fault::CutOff | Fault::Status(500..) => {
                Self::Unavailable
            }
            Fault::Hang => Self::TimedOut,
            Fault::Limited(_) => Self::Limited,
            Fault::Status(401 | 403) => Self::Denied,
            _ => Self::Upstream,
        }
    }
}

/// The faults of the table, and those that this API has of its own.
fn table(elsewhere: &Server) -> Vec<Fault> {
    let mut table = Fault::table(&elsewhere.url());
    let blank = r#"{"message":"","url":"https://forge.example/api/swagger"}"#;
    let json = "application/json;charset=utf-8";
    table.push(Fault::Body(500, json, blank.to_owned()));
    // It claims success, but is not what was asked for.
    table.push(Fault::Body(201, "text/html", "<p>Created".to_owned()));
    table.push(Fault::Body(201, json, "{}".to_owned()));
    table.push(Fault::Body(200, json, "{}".to_owned()));
    table
}

type Outcome<'a> = Pin<Box<dyn Future<Output = PortResult<()>> + Send + 'a>>;

/// Breaks call after call of an operation in every way. `prepare` makes what it is about,
/// `expected` says what a fault of a call is to be, and `done` looks at what there is after
/// another try without faults, which must go through.
async fn break_all<S>(
    calls: usize,
    prepare: impl Fn(&gitea::Gitea, &Server) -> S,
    operation: impl for<'a> Fn(&'a Gitea, &'a S) -> Outcome<'a>,
    expected: impl Fn(usize, &Fault) -> Kind,
    done: impl Fn(&gitea::Gitea, &S),
) {
    let elsewhere = Server::start();
    let json = r#"{"id": 1}"#.to_owned();
    elsewhere.answer_with(Fault::Body(200, "application/json", json));
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    for call in 0..calls {
        for fault in table(&elsewhere) {
            server.heal();
            let subject = prepare(&gitea, &server);
            server.forget();
            server.break_nth(call, fault.clone());
            // Patient where patience does not cost a second.
            let forge = if fault == Fault::Hang { hasty } else { acme }(&server.url());
            let outcome = operation(&forge, &subject).await;
            let kind = match &fault {
                Fault::Body(500, ..) => Kind::Unavailable,
                fault => expected(call, fault),
            };
            assert_eq!(Kind::of(&outcome), kind, "call {call}, {fault:?}: {outcome:?}");
            if let Err(error) = &outcome {
                assert!(!format!("{error} {error:?}").contains(TOKEN), "{error:?}");
            }
            for request in server.requests() {
                let login = request.authorization();
                assert_eq!(login, Some(format!("token {TOKEN}").as_str()), "{request:?}");
                assert!(!request.target.contains(TOKEN), "{request:?}");
            }
            server.heal();
            let again = operation(&acme(&server.url()), &subject).await;
            assert!(again.is_ok(), "call {call}, {fault:?}, then without: {again:?}");
            done(&gitea, &subject);
        }
    }
    assert_eq!(elsewhere.requests(), [], "a redirect was followed");
}

/// A repository of a name that was not used yet.
fn next(start: Start) -> NewRepository {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    wanted(&format!("site-{}", NEXT.fetch_add(1, Ordering::Relaxed)), start)
}

fn create<'a>(forge: &'a Gitea, new: &'a NewRepository) -> Outcome<'a> {
    Box::pin(async move { forge.create_repository(new).await.map(drop) })
}

fn one_commit_and_hook(gitea: &gitea::Gitea, new: &NewRepository) {
    let full_name = format!("acme/{}", new.project);
    let all = gitea.repositories();
    assert_eq!(all.iter().filter(|info| info.full_name == full_name).count(), 1);
    assert_eq!(gitea.git(&full_name, &["rev-list", "--count", "--all"]), "1");
    assert_eq!(gitea.hooks(&full_name).len(), 1);
}

async fn making_a_repository() {
    // Its user, the repository, its content, its hooks, the hook.
    break_all(
        5,
        |_, _| next(seed()),
        create,
        |call, fault| match (call, fault) {
            // It may not read its user, so that the owner is an organisation.
            (0, Fault::Status(403)) => Kind::Fine,
            (1, Fault::Status(409)) => Kind::NotOurs,
            (1 | 2, Fault::Status(422)) => Kind::Invalid,
            (2, Fault::Status(409)) => Kind::Contended,
            (_, fault) => Kind::usual(fault),
        },
        one_commit_and_hook,
    )
    .await;
}

async fn finding_a_repository_that_was_made_before() {
    // Its user, the refused name, the repository, its commits, its hooks, the hook.
    break_all(
        6,
        |gitea, _| {
            let new = next(seed());
            let full_name = format!("acme/{}", new.project);
            gitea.create(&full_name, &format!("x [rdev:{}]", new.nonce), &[]);
            let message = format!("Start\n\nRdev-Seed: {}", new.nonce);
            gitea.commit(&full_name, "main", &[("a", b"a")], &message);
            new
        },
        create,
        |call, fault| match (call, fault) {
            (0, Fault::Status(403)) | (1, Fault::Status(409 | 422)) => Kind::Fine,
            (_, fault) => Kind::usual(fault),
        },
        one_commit_and_hook,
    )
    .await;
}

async fn copying_a_template_repository() {
    // The copy, its hooks, the hook.
    break_all(
        3,
        |gitea, _| {
            if gitea.repositories().is_empty() {
                gitea.create("acme/template", "", &[("a", b"a")]);
                gitea.set_template("acme/template", true);
            }
            next(Start::Generate("acme/template".to_owned()))
        },
        create,
        |call, fault| match (call, fault) {
            (0, Fault::Status(409)) => Kind::NotOurs,
            (0, Fault::Status(422)) => Kind::Invalid,
            (_, fault) => Kind::usual(fault),
        },
        one_commit_and_hook,
    )
    .await;
}

async fn deleting_a_repository() {
    // The repository, its end.
    break_all(
        2,
        |gitea, _| {
            let new = next(seed());
            let description = format!("x [rdev:{}]", new.nonce);
            gitea.create(&format!("acme/{}", new.project), &description, &[]);
            new
        },
        |forge, new| {
            Box::pin(async move { forge.delete_repository(&ours(&new.project, new.nonce)).await })
        },
        |_, fault| Kind::usual(fault),
        |gitea, _| assert_eq!(gitea.repositories(), []),
    )
    .await;
}

/// A repository with a branch that is wanted in another one.
fn wanted_pull(gitea: &gitea::Gitea, server: &Server) -> PullRequest {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if gitea.repositories().is_empty() {
        gitea.create("acme/site", "", &[("a", b"a")]);
    }
    gitea.close_pulls("acme/site");
    // Another branch each time, as another build has.
    let branch = format!("rdev/work-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    pull_of(gitea, &server.url(), &branch)
}

async fn opening_a_pull_request() {
    // The open ones, the new one.
    break_all(
        2,
        wanted_pull,
        |forge, request| Box::pin(async move { forge.pull_request(request).await.map(drop) }),
        |call, fault| match (call, fault) {
            (1, Fault::Status(409)) => Kind::Contended,
            (1, Fault::Status(422)) => Kind::Invalid,
            (_, fault) => Kind::usual(fault),
        },
        |gitea, request| {
            let pulls = gitea.pulls("acme/site");
            let of = |pull: &&gitea::Pull| pull.open && pull.head == request.branches.head.as_str();
            assert_eq!(pulls.iter().filter(of).count(), 1);
        },
    )
    .await;
}

async fn setting_a_status() {
    break_all(
        1,
        |gitea, server| status(&wanted_pull(gitea, server)),
        |forge, status| Box::pin(forge.set_status(status)),
        |_, fault| match fault {
            Fault::Status(422) => Kind::Invalid,
            fault => Kind::usual(fault),
        },
        |gitea, status| {
            let newest = gitea.statuses("acme/site", status.commit.as_str()).remove(0);
            assert_eq!(newest.state, "pending");
        },
    )
    .await;
}
