//! Over HTTP: fetch, push, and a server that refuses, hangs or loses answers.

use std::collections::HashSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rdev_domain::git::OwnRef;
use rdev_domain::git_url::UrlPolicy;
use rdev_domain::ids::{Fence, TaskId};
use rdev_testkit::servers::git_http::Behaviour;

use super::*;

#[test]
fn a_build_goes_from_fetch_to_a_commit_on_the_branch() {
    let world = World::new();
    let start = world.main();
    let (fetched, dirs) = world.checked_out("build");
    assert_eq!(fetched.tip, at(start.as_ref().expect("main")));
    write(&dirs, "a.txt", "one\nTWO\nthree\n");
    write(&dirs, "new/c.txt", "c\n");
    fs::remove_file(dirs.checkout.join("dir/b.txt")).expect("a removed file");
    let commit = committed(&dirs, fetched.start.as_ref(), "work\n\nRdev-Task: x\n");

    world.server.forget_seen();
    let ticket = OwnRef::Wip("01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("an id"), Fence(1));
    let wip = &format!("refs/{}", ticket.path());
    let expect = Expect::Exactly(Tip::Absent);
    let seen = world.push(&dirs, &commit, wip, &expect).expect("a ticket");
    assert_eq!(seen, fetched.tip);
    assert_eq!(world.server.find_ref("site", wip), Some(commit.to_string()));
    let pushed = git::push(
        &Push {
            dirs: &dirs,
            remote: &world.remote,
            commit: &commit,
            target: "refs/heads/main",
            expect: &Expect::Forward(seen),
            delete: Some((ticket, &commit)),
            watch: &branch("main"),
            known: None,
            until: Until::Updated,
        },
        &go(),
    );
    let pushed = pushed.expect("a push");
    assert_eq!((pushed.tip, pushed.atomic), (fetched.tip, true));
    assert_eq!(world.main(), Some(commit.to_string()));
    assert_eq!(world.server.find_ref("site", wip), None);
    assert!(git::contains(&dirs, &commit, &commit).expect("an answer"));

    let shown =
        world.server.git("site", &["show", "--format=%B%n%an <%ae> %at", "--stat=80", "main"]);
    assert!(shown.starts_with("work\n\nRdev-Task: x"), "{shown}");
    assert!(shown.contains("rdev <rdev@example.com> 1795424624"), "{shown}");
    assert!(shown.contains("3 files changed"), "{shown}");
    world.server.git("site", &["fsck", "--strict"]);

    // Two requests for each of the two pushes, and none without the login.
    let seen = world.server.seen();
    assert_eq!(seen.len(), 4, "{seen:?}");
    assert!(seen.iter().all(|request| request.authorized), "{seen:?}");
    // Connections are kept. A second one is made now and then, when the first is
    // not back yet in the very moment of the next request.
    let connections: HashSet<_> = seen.iter().map(|request| request.from).collect();
    assert!(connections.len() <= 3, "{seen:?}");
}

#[test]
fn a_second_fetch_brings_only_what_is_new_in_two_requests() {
    let world = World::new();
    world.checked_out("first");
    let tip = world.server.commit("site", "main", &[("a.txt", "new\n")], "more");
    world.server.forget_seen();
    let (fetched, dirs) = world.checked_out("second");
    assert_eq!(fetched.tip, at(&tip));
    assert_eq!(read(&dirs, "a.txt"), "new\n");
    assert_eq!(world.server.seen().len(), 2);
    world.server.forget_seen();
    world.checked_out("third");
    assert_eq!(world.server.seen().len(), 1, "nothing is new: the list of refs is enough");
}

#[test]
fn the_first_push_to_an_empty_repository_makes_its_branch() {
    let world = World::empty();
    let (fetched, dirs) = world.checked_out("build");
    assert_eq!((&fetched.tip, &fetched.start), (&Tip::Absent, &None));
    write(&dirs, "index.html", "<h1>hello</h1>\n");
    let commit = committed(&dirs, None, "first");
    world
        .push(&dirs, &commit, "refs/rdev/wip/01JDGZ2V9QK8M3T5X7Y9ABCDEF/1", &Expect::Any)
        .expect("a wip push");
    // A repository with nothing but our own refs is still an empty one.
    assert_eq!(world.try_fetch("main").expect("a fetch").start, None);
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(Tip::Absent)).expect("a push");
    assert_eq!(world.server.log("site", "main"), ["first"]);
    world.server.git("site", &["fsck", "--strict"]);
}

#[test]
fn a_new_branch_begins_at_the_fallback() {
    let world = World::new();
    let main = world.main().expect("main");
    let fetched = world.try_fetch("feature/x").expect("a fetch");
    assert_eq!((&fetched.tip, fetched.start.as_ref()), (&Tip::Absent, Some(&id(&main))));
    let dirs = world.dirs("build");
    git::checkout(&fetched.mirror, fetched.start.as_ref(), &branch("feature/x"), &dirs, &go())
        .expect("a checkout");
    assert_eq!(in_checkout(&dirs, &["branch", "--show-current"]), "feature/x");
    write(&dirs, "x", "x");
    let commit = committed(&dirs, fetched.start.as_ref(), "on a branch");
    world
        .push(&dirs, &commit, "refs/heads/feature/x", &Expect::Forward(Tip::Absent))
        .expect("a push");
    assert_eq!(world.server.log("site", "feature/x"), ["on a branch", "initial commit"]);
    assert_eq!(world.main(), Some(main));

    let error =
        git::fetch(&world.cache(), u64::MAX, &world.remote, &branch("a"), &branch("b"), &go());
    assert!(matches!(error, Err(GitError::BranchNotFound(name)) if name == "b"));
}

#[test]
fn own_refs_are_told_and_fetched_from_both_namespaces() {
    let world = World::new();
    let (_kept, dirs, commit) = world.worked("first", "mine\n");
    let task: TaskId = "01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("a task id");
    let (wip, part) = (OwnRef::Wip(task, Fence(3)), OwnRef::Part(task, Fence(4)));
    world.push(&dirs, &commit, &format!("refs/{}", wip.path()), &Expect::Any).expect("a push");
    world
        .push(&dirs, &commit, &format!("refs/heads/{}", part.path()), &Expect::Any)
        .expect("a push");

    let (fetched, later) = world.checked_out("later");
    let mut own = fetched.own.clone();
    own.sort_by_key(|(own, _)| own.path());
    assert_eq!(own, [(part, commit.clone()), (wip, commit.clone())]);
    assert!(git::parent(&later, &commit).is_err(), "its objects are not here yet");
    for own in [wip, part] {
        assert_eq!(git::fetch_commit(&later, &world.remote, own, &go()).expect("a fetch"), commit);
    }
    assert_eq!(git::parent(&later, &commit).expect("the commit"), fetched.start);
    let changes =
        git::diff_of(&later, &commit, fetched.start.as_ref(), &CAPS).expect("its changes");
    assert_eq!(changes.files[0].path, "a.txt");
    let gone = git::fetch_commit(&later, &world.remote, OwnRef::Kept(task), &go());
    assert!(matches!(gone, Err(GitError::Moved { tip: Tip::Absent })), "{gone:?}");
}

#[test]
fn a_branch_that_moved_before_the_push_is_told_and_left_alone() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    let theirs = world.server.commit("site", "main", &[("c.txt", "c")], "theirs");
    let moved = world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip));
    assert!(matches!(&moved, Err(GitError::Moved { tip }) if *tip == at(&theirs)), "{moved:?}");
    assert_eq!(world.main(), Some(theirs.clone()));

    let tip = git::look(&dirs, &world.remote, &branch("main"), &go()).expect("the tip").tip;
    assert_eq!(tip, at(&theirs));
    let rebased = git::rebase(&dirs, &commit, &id(&theirs), &author(), NOW).expect("a rebase");
    let git::Rebased::Clean(rebased) = rebased else { panic!("{rebased:?}") };
    world.push(&dirs, &rebased, "refs/heads/main", &Expect::Forward(tip)).expect("a push");
    assert_eq!(world.server.log("site", "main"), ["work", "theirs", "initial commit"]);
    assert!(!git::contains(&dirs, &commit, &rebased).expect("an answer"));
    assert!(git::contains(&dirs, &id(&theirs), &rebased).expect("an answer"));

    // Deleted meanwhile is moved, too.
    world.server.git("site", &["update-ref", "-d", "refs/heads/main"]);
    let moved = world.push(&dirs, &rebased, "refs/heads/main", &Expect::Forward(at(&theirs)));
    assert!(matches!(moved, Err(GitError::Moved { tip: Tip::Absent })), "{moved:?}");
}

#[test]
fn a_branch_that_moves_during_the_push_is_told() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    // The objects of a person's commit are there; a hook makes it the branch's
    // tip between our look at the server and the server's own check.
    let theirs = world.server.commit("site", "other", &[("c.txt", "c")], "theirs");
    let script = format!("unset GIT_QUARANTINE_PATH; git update-ref refs/heads/main {theirs}");
    world.server.hook("site", "pre-receive", &script);
    let moved = world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip));
    assert!(matches!(&moved, Err(GitError::Moved { tip }) if *tip == at(&theirs)), "{moved:?}");
    assert_eq!(world.main(), Some(theirs));
}

#[test]
fn a_push_is_never_forced() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    let theirs = world.server.commit("site", "main", &[("c.txt", "c")], "theirs");
    let tip = git::look(&dirs, &world.remote, &branch("main"), &go()).expect("the tip").tip;
    let refused = world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(tip));
    assert!(matches!(refused, Err(GitError::Broken { .. })), "{refused:?}");
    assert_eq!(world.main(), Some(theirs));
}

#[test]
fn a_push_of_what_is_there_already_sends_nothing() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    world.server.forget_seen();
    let again = world.push(&dirs, &commit, "refs/heads/main", &Expect::Any).expect("a push");
    assert_eq!(again, Tip::Commit(commit));
    assert_eq!(world.server.seen().len(), 1);
}

#[test]
fn a_protected_branch_is_a_refusal_in_the_hooks_own_words() {
    for hook in ["pre-receive", "update"] {
        let world = World::new();
        let main = world.main();
        let (fetched, dirs, commit) = world.worked("build", "mine\n");
        world.server.hook(
            "site",
            hook,
            "echo 'main is protected, open a pull request' >&2; exit 1",
        );
        let refused = world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip));
        let Err(GitError::Rejected { reason }) = refused else { panic!("{refused:?}") };
        assert!(reason.contains("main is protected, open a pull request"), "{reason}");
        assert!(reason.contains("hook declined"), "{reason}");
        assert_eq!(world.main(), main);
    }
}

#[test]
fn a_server_that_takes_only_branches_is_told_from_one_that_refuses() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    world.server.refuse_outside_heads("site");
    let path = "rdev/wip/01JDGZ2V9QK8M3T5X7Y9ABCDEF/1";
    let refused = world.push(&dirs, &commit, &format!("refs/{path}"), &Expect::Any);
    assert!(matches!(refused, Err(GitError::RefNamespaceRefused)), "{refused:?}");
    world.push(&dirs, &commit, &format!("refs/heads/{path}"), &Expect::Any).expect("a push");
    assert_eq!(world.try_fetch("main").expect("a fetch").own.len(), 1);
}

#[test]
fn a_refused_removal_is_told_and_the_others_are_done() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    let names = ["refs/rdev/kept/a", "refs/rdev/kept/b"].map(str::to_owned);
    for name in &names {
        world.push(&dirs, &commit, name, &Expect::Any).expect("a push");
    }
    world.server.hook("site", "update", "test \"$1\" != refs/rdev/kept/a");
    let refused = git::delete_refs(&world.remote, &names, &go());
    assert!(matches!(refused, Err(GitError::Rejected { .. })), "{refused:?}");
    assert!(world.server.find_ref("site", &names[0]).is_some());
    assert!(world.server.find_ref("site", &names[1]).is_none());
}

#[test]
fn a_wrong_or_missing_token_is_an_auth_error_that_does_not_tell_it() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    let mut wrong = world.remote.clone();
    wrong.credentials =
        Some(Credentials { username: USER.to_owned(), token: Secret::new("wrong-s3cret") });
    let mut none = world.remote.clone();
    none.credentials = None;
    for remote in [&wrong, &none] {
        let errors = [
            git::fetch(&world.cache(), u64::MAX, remote, &branch("main"), &branch("main"), &go())
                .map(|_| ())
                .expect_err("no fetch"),
            list(remote).map(|_| ()).expect_err("no list"),
            push(&dirs, remote, &commit, "refs/heads/x", &Expect::Any)
                .map(|_| ())
                .expect_err("no push"),
            git::delete_refs(remote, &["refs/heads/main".to_owned()], &go())
                .expect_err("no removal"),
        ];
        for error in errors {
            assert!(matches!(error, GitError::Auth { .. }), "{error:?}");
            assert!(!error.is_transient());
            assert!(!message_of(&error).contains("s3cret"), "{}", message_of(&error));
        }
    }
    assert!(!format!("{wrong:?}").contains("s3cret"));
}

#[test]
fn the_token_is_in_no_file_of_the_runner() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    let files = files_below(world.folder.path());
    assert!(files.len() > 20);
    for file in files {
        let content = fs::read(&file).expect("a file");
        let holds =
            |text: &str| content.windows(text.len()).any(|window| window == text.as_bytes());
        assert!(!holds(TOKEN) && !holds("cmRldjp0b2s"), "{}", file.display());
    }
}

#[test]
fn statuses_mean_what_they_say() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    for status in [500, 502, 503, 429, 408] {
        world.server.behave(Behaviour::Status(status));
        let error = world.try_fetch("main").expect_err("no fetch");
        assert!(
            matches!(error, GitError::Unreachable { in_doubt: false, .. }),
            "{status}: {error:?}"
        );
        assert!(error.is_transient());
    }
    world.server.behave(Behaviour::Status(403));
    assert!(matches!(world.try_fetch("main"), Err(GitError::Auth { .. })));
    let push = world.push(&dirs, &commit, "refs/heads/main", &Expect::Any);
    assert!(matches!(push, Err(GitError::Rejected { .. })), "{push:?}");
    world.server.behave(Behaviour::Status(404));
    assert!(matches!(world.try_fetch("main"), Err(GitError::RepositoryNotFound)));
    // Something else that answers 200 there is no git server.
    world.server.behave(Behaviour::Status(200));
    assert!(matches!(world.try_fetch("main"), Err(GitError::Broken { .. })));
    world.server.behave(Behaviour::Serve);
    let missing = remote(&world.server.url("nothing"));
    let missing = list(&missing);
    assert!(matches!(missing, Err(GitError::RepositoryNotFound)), "{missing:?}");
}

#[test]
fn a_server_that_is_not_there_is_unreachable() {
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a free port")
        .port();
    let away = remote(&format!("http://127.0.0.1:{port}/a.git"));
    let error = list(&away).expect_err("nobody is there");
    assert!(matches!(error, GitError::Unreachable { in_doubt: false, .. }), "{error:?}");
}

#[test]
fn a_silent_server_is_unreachable_within_the_timeout() {
    let world = World::new();
    world.server.behave(Behaviour::Hang);
    let remote = Remote { timeout: Duration::from_millis(200), ..world.remote };
    let begun = Instant::now();
    let error = list(&remote).expect_err("no answer");
    assert!(matches!(error, GitError::Unreachable { in_doubt: false, .. }), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(100), "{:?}", begun.elapsed());
}

#[test]
fn a_push_is_done_when_its_refs_are_updated_and_its_last_hook_runs_on() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    let (go_on, ended) = (world.dirs("hook").gitdir, world.dirs("hook").checkout);
    fs::create_dir_all(go_on.parent().expect("a parent")).expect("a folder");
    let waits =
        format!("until [ -e {} ]; do sleep 0.01; done; touch {}", go_on.display(), ended.display());
    world.server.hook("site", "post-receive", &waits);
    let expect = Expect::Forward(fetched.tip);
    world.push(&dirs, &commit, "refs/heads/main", &expect).expect("a push");
    assert_eq!(world.main(), Some(commit.to_string()));
    assert!(!ended.exists(), "its hook still runs");
    fs::write(&go_on, "").expect("a file");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime").block_on(git::pushes_ended(Duration::from_secs(100)));
    assert!(ended.exists(), "it was not cut short");
}

#[test]
fn a_push_whose_hooks_are_awaited_ends_after_them() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    let ended = world.dirs("hook").gitdir;
    let slow = format!("sleep 0.3; mkdir -p {}", ended.display());
    world.server.hook("site", "post-receive", &slow);
    let push = Push {
        dirs: &dirs,
        remote: &world.remote,
        commit: &commit,
        target: "refs/heads/main",
        expect: &Expect::Forward(fetched.tip),
        delete: None,
        watch: &branch("main"),
        known: None,
        until: Until::Ended,
    };
    git::push(&push, &go()).expect("a push");
    assert!(ended.exists());
}

#[test]
fn a_refusal_is_told_with_all_that_the_server_says() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    world.server.hook("site", "update", "echo 'one reason' >&2; echo 'another one' >&2; exit 1");
    let expect = Expect::Forward(fetched.tip);
    let refused = world.push(&dirs, &commit, "refs/heads/main", &expect).expect_err("refused");
    let GitError::Rejected { reason } = &refused else { panic!("{refused:?}") };
    assert!(reason.contains("one reason") && reason.contains("another one"), "{reason}");
}

#[test]
fn a_push_by_what_an_earlier_one_has_learned_needs_one_request_and_is_refused_where_that_is_old() {
    #[derive(Debug, PartialEq)]
    enum Meanwhile {
        Nothing,
        TheBranchMoves,
        TheTicketGoes,
        TheTicketMoves,
    }
    let ticket = OwnRef::Wip("01JDGZ2V9QK8M3T5X7Y9ABCDEF".parse().expect("an id"), Fence(1));
    let wip = &format!("refs/{}", ticket.path());
    for meanwhile in [
        Meanwhile::Nothing,
        Meanwhile::TheBranchMoves,
        Meanwhile::TheTicketGoes,
        Meanwhile::TheTicketMoves,
    ] {
        let world = World::new();
        let start = world.main();
        let (fetched, dirs, commit) = world.worked("build", "mine\n");
        let main = branch("main");
        let first = Push {
            dirs: &dirs,
            remote: &world.remote,
            commit: &commit,
            target: wip,
            expect: &Expect::Exactly(Tip::Absent),
            delete: None,
            watch: &main,
            known: None,
            until: Until::Updated,
        };
        let pushed = git::push(&first, &go()).expect("a ticket");
        assert!(pushed.atomic && pushed.refs.is_some());
        let moved = match meanwhile {
            Meanwhile::Nothing => None,
            Meanwhile::TheBranchMoves => {
                Some(world.server.commit("site", "main", &[("a.txt", "theirs\n")], "theirs"))
            }
            Meanwhile::TheTicketGoes => {
                world.server.git("site", &["update-ref", "-d", wip]);
                None
            }
            Meanwhile::TheTicketMoves => {
                world.server.git("site", &["update-ref", wip, start.as_ref().expect("main")]);
                None
            }
        };
        world.server.forget_seen();
        let second = Push {
            target: "refs/heads/main",
            expect: &Expect::Forward(fetched.tip),
            delete: Some((ticket, &commit)),
            known: pushed.refs.as_ref(),
            ..first
        };
        let outcome = git::push(&second, &go());
        let seen = world.server.seen();
        assert!(seen[0].is_push(), "{meanwhile:?}: {seen:?}");
        match (&meanwhile, outcome) {
            (Meanwhile::Nothing, Ok(_)) => {
                assert_eq!(seen.len(), 1, "{seen:?}");
                assert_eq!(world.main(), Some(commit.to_string()));
                assert_eq!(world.server.find_ref("site", wip), None);
                continue;
            }
            (Meanwhile::TheBranchMoves, Err(GitError::Moved { tip: Tip::Commit(tip) })) => {
                assert_eq!(Some(tip.to_string()), moved);
                assert_eq!(world.main(), moved);
                assert_eq!(world.server.find_ref("site", wip), Some(commit.to_string()));
            }
            (
                Meanwhile::TheTicketGoes | Meanwhile::TheTicketMoves,
                Err(GitError::Gone { name }),
            ) => {
                assert_eq!(name, *wip);
                assert_eq!(world.main(), start);
            }
            (_, outcome) => panic!("{meanwhile:?}: {outcome:?}"),
        }
    }
}

#[test]
fn a_cancel_ends_a_transfer_at_once() {
    let world = World::new();
    let (_fetched, dirs, commit) = world.worked("build", "mine\n");
    for behaviour in [Behaviour::Hang, Behaviour::HangAtPush] {
        world.server.behave(behaviour.clone());
        world.server.forget_seen();
        let cancel = go();
        let requests = if behaviour == Behaviour::Hang { 1 } else { 2 };
        std::thread::scope(|scope| {
            let push = scope.spawn(|| {
                let push = Push {
                    dirs: &dirs,
                    remote: &world.remote,
                    commit: &commit,
                    target: "refs/heads/x",
                    expect: &Expect::Any,
                    delete: None,
                    watch: &branch("main"),
                    known: None,
                    until: Until::Updated,
                };
                git::push(&push, &cancel)
            });
            let deadline = Instant::now() + Duration::from_secs(100);
            while world.server.seen().len() < requests {
                assert!(Instant::now() < deadline, "the request does not arrive");
                std::thread::yield_now();
            }
            let cancelled = Instant::now();
            cancel.cancel();
            let outcome = push.join().expect("no panic");
            assert!(matches!(outcome, Err(GitError::Cancelled)), "{outcome:?}");
            assert!(cancelled.elapsed() < Duration::from_secs(100));
        });
    }
}

#[test]
fn a_push_whose_answer_is_lost_is_in_doubt_and_found_by_looking() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    world.server.behave(Behaviour::LoseAnswer);
    let error = world
        .push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip))
        .expect_err("no answer");
    assert!(error.is_in_doubt() && error.is_transient(), "{error:?}");
    assert_eq!(world.main(), Some(commit.to_string()));

    world.server.behave(Behaviour::HangAtPush);
    let (fetched, dirs, commit) = world.worked("again", "mine again\n");
    let remote = Remote { timeout: Duration::from_millis(200), ..world.remote };
    let expect = Expect::Forward(fetched.tip);
    let error = push(&dirs, &remote, &commit, "refs/heads/main", &expect);
    assert!(error.expect_err("no answer").is_in_doubt());
}

#[test]
fn a_redirect_is_not_followed_and_gets_no_token() {
    let (world, other) = (World::new(), World::new());
    world.server.behave(Behaviour::Redirect(other.server.origin()));
    let error = world.try_fetch("main").expect_err("no fetch");
    assert!(matches!(error, GitError::Broken { .. }), "{error:?}");
    let message = message_of(&error);
    assert!(message.contains(&other.server.origin()) && !message.contains(TOKEN), "{message}");
    assert_eq!(other.server.seen(), []);
}

#[test]
fn a_policy_is_kept_for_urls_and_for_what_names_resolve_to() {
    let world = World::new();
    let closed = Remote { policy: UrlPolicy::default(), ..world.remote.clone() };
    let literal = list(&closed);
    assert!(matches!(literal, Err(GitError::NotAllowed(_))), "{literal:?}");
    let named = world.server.url("site").replace("127.0.0.1", "localhost");
    let named = Remote { url: named.parse().expect("a URL"), ..closed };
    assert!(matches!(list(&named), Err(GitError::NotAllowed(_))));
    let open = Remote { policy: UrlPolicy { allow_private: true, file_root: None }, ..named };
    list(&open).expect("a list");
    assert_eq!(world.server.seen().len(), 1);
}

#[test]
fn a_large_pack_is_streamed_in_both_directions() {
    let world = World::new();
    // 24 MiB that do not compress.
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut noise = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    let (fetched, dirs) = world.checked_out("build");
    for n in 0..6 {
        let content: Vec<u8> = (0..4 << 20).map(|_| noise()).collect();
        fs::write(dirs.checkout.join(format!("blob{n}")), content).expect("a file");
    }
    let commit = committed(&dirs, fetched.start.as_ref(), "large");
    world.push(&dirs, &commit, "refs/heads/main", &Expect::Forward(fetched.tip)).expect("a push");
    assert_eq!(world.main(), Some(commit.to_string()));
    world.server.git("site", &["fsck", "--strict"]);
    let (_fetched, again) = world.checked_out("again");
    for n in 0..6 {
        let name = format!("blob{n}");
        let read = |dirs: &Workdir| fs::read(dirs.checkout.join(&name)).expect("a file");
        assert!(read(&again) == read(&dirs), "{name}");
    }
}

#[test]
fn a_stale_lock_on_the_server_is_a_passing_trouble() {
    let world = World::new();
    let (fetched, dirs, commit) = world.worked("build", "mine\n");
    let lock = world.server.folder("site").join("refs/heads/main.lock");
    fs::write(&lock, "").expect("a stale lock");
    let expect = Expect::Forward(fetched.tip);
    let error = world.push(&dirs, &commit, "refs/heads/main", &expect).expect_err("locked");
    assert!(matches!(error, GitError::Unreachable { in_doubt: false, .. }), "{error:?}");
    fs::remove_file(lock).expect("a removed lock");
    world.push(&dirs, &commit, "refs/heads/main", &expect).expect("a push");
}
