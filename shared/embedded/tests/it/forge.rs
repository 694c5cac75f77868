//! Local repositories, checked with the real git.

use std::fs;
use std::path::Path;
use std::process::Command;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    CommitState, CommitStatus, Conflict, Forge, NewRepository, OwnRepository, PortError,
    PullRequest, PullRequestBranches, SeedFile, Start,
};
use rdev_domain::time::Timestamp;
use rdev_embedded::{Author, Options};
use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
use ulid::Ulid;

use crate::scene::Scene;

fn seed(path: &str, content: &str) -> SeedFile {
    SeedFile { path: path.to_owned(), content: content.as_bytes().to_vec() }
}

fn ours(project: &ProjectId, nonce: Ulid) -> OwnRepository {
    OwnRepository { project: project.clone(), nonce, forge_id: None }
}

/// The project `site`, created by the request `1`.
fn site(files: &[SeedFile]) -> NewRepository {
    NewRepository {
        project: "site".parse().expect("a slug"),
        nonce: Ulid(1),
        description: String::new(),
        branch: "main".parse().expect("a branch"),
        start: Start::Seed(files.to_vec()),
    }
}

fn git(repository: &Path, args: &[&str]) -> String {
    let output = Command::new("git").arg("-C").arg(repository).args(args).output().expect("git");
    assert!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[tokio::test]
async fn a_new_repository_contains_the_template() {
    let author = Author { name: "Ada".to_owned(), email: "ada@example.com".to_owned() };
    let scene = Scene::with(Options { author, ..Options::default() });
    let files = [
        seed("index.html", "<h1>hi</h1>\n"),
        seed("css/main.css", "h1 {}\n"),
        seed(".gitignore", ""),
    ];
    let new = NewRepository { branch: "trunk".parse().expect("a branch"), ..site(&files) };
    let created = scene.data.forge.create_repository(&new).await.expect("created");
    assert_eq!((&created.default_branch, created.forge_id), (&new.branch, None));
    let folder = created.git_url.to_folder().expect("a file: URL");
    assert_eq!(folder, scene.path("repos/site.git"));

    assert_eq!(git(&folder, &["symbolic-ref", "HEAD"]), "refs/heads/trunk");
    assert_eq!(git(&folder, &["rev-list", "--count", "trunk"]), "1");
    assert_eq!(git(&folder, &["log", "-1", "--format=%an <%ae>"]), "Ada <ada@example.com>");
    assert_eq!(
        git(&folder, &["ls-tree", "-r", "--name-only", "trunk"]),
        ".gitignore\ncss/main.css\nindex.html"
    );
    assert_eq!(git(&folder, &["show", "trunk:css/main.css"]), "h1 {}");
    git(&folder, &["fsck", "--strict"]);
    for hook in fs::read_dir(folder.join("hooks")).expect("a folder") {
        let name = hook.expect("an entry").file_name();
        assert!(name.to_string_lossy().ends_with(".sample"), "{name:?} would run");
    }

    let clone = scene.path("clone");
    git(
        &scene.data.folder,
        &["clone", "-q", created.git_url.as_str(), clone.to_str().expect("UTF-8")],
    );
    fs::write(clone.join("index.html"), "<h1>ho</h1>\n").expect("a file");
    let user = ["-c", "user.name=x", "-c", "user.email=x@example.com"];
    git(&clone, &[&user[..], &["commit", "-qam", "more"]].concat());
    git(&clone, &["push", "-q", "origin", "trunk"]);
    let tip = git(&folder, &["rev-parse", "trunk"]);

    let again = scene.data.forge.create_repository(&new).await.expect("it exists");
    assert_eq!(again, created);
    assert_eq!(git(&folder, &["rev-parse", "trunk"]), tip, "it was returned as it is");
}

#[tokio::test]
async fn a_repository_without_a_template_is_empty() {
    let scene = Scene::new();
    let created = scene.data.forge.create_repository(&site(&[])).await.expect("created");
    let folder = created.git_url.to_folder().expect("a file: URL");
    assert_eq!(git(&folder, &["symbolic-ref", "HEAD"]), "refs/heads/main");
    assert_eq!(git(&folder, &["for-each-ref"]), "");
}

#[tokio::test]
async fn a_deleted_repository_is_removed_and_can_be_created_again() {
    let scene = Scene::new();
    let forge = &scene.data.forge;
    let new = site(&[seed("a", "1")]);
    forge.create_repository(&new).await.expect("created");
    forge.delete_repository(&ours(&new.project, new.nonce)).await.expect("it goes");
    assert_eq!(fs::read_dir(forge.folder()).expect("a folder").count(), 0);
    let again = forge.delete_repository(&ours(&new.project, new.nonce)).await;
    again.expect("one that is not there is nothing");
    let anew = NewRepository { nonce: Ulid(2), ..site(&[seed("b", "2")]) };
    let created = forge.create_repository(&anew).await.expect("created");
    let folder = created.git_url.to_folder().expect("a file: URL");
    assert_eq!(git(&folder, &["ls-tree", "-r", "--name-only", "main"]), "b");
}

fn is_not_ours<T>(answer: &Result<T, PortError>) -> bool {
    matches!(answer, Err(PortError::Conflict(Conflict::RepositoryNotOurs)))
}

#[tokio::test]
async fn a_repository_of_another_request_is_neither_used_nor_deleted() {
    let scene = Scene::new();
    let (forge, new) = (&scene.data.forge, site(&[seed("a", "1")]));
    let created = forge.create_repository(&new).await.expect("created");
    let folder = created.git_url.to_folder().expect("a file: URL");

    let other = NewRepository { nonce: Ulid(2), ..new.clone() };
    assert!(is_not_ours(&forge.create_repository(&other).await));
    assert!(is_not_ours(&forge.delete_repository(&ours(&new.project, other.nonce)).await));
    assert_eq!(git(&folder, &["ls-tree", "-r", "--name-only", "main"]), "a");
    assert_eq!(forge.create_repository(&new).await.expect("its own repository exists"), created);

    // A repository without a nonce is older than the nonces: any request may use it.
    git(&folder, &["config", "--unset", "rdev.nonce"]);
    assert_eq!(forge.create_repository(&other).await.expect("it is used"), created);
    forge.delete_repository(&ours(&new.project, other.nonce)).await.expect("it goes");
    assert!(!folder.exists());
}

#[tokio::test]
async fn of_two_requests_for_one_repository_one_gets_it() {
    let scene = Scene::new();
    for _ in 0..10 {
        let mut makers = Vec::new();
        for nonce in 1..=4 {
            let forge = scene.data.forge.clone();
            makers.push(tokio::spawn(async move {
                let new = NewRepository { nonce: Ulid(nonce), ..site(&[]) };
                (nonce, forge.create_repository(&new).await)
            }));
        }
        let mut winners = Vec::new();
        for maker in makers {
            match maker.await.expect("no panic") {
                (nonce, Ok(_)) => winners.push(nonce),
                (nonce, answer) => assert!(is_not_ours(&answer), "{nonce}: {answer:?}"),
            }
        }
        assert_eq!(winners.len(), 1, "{winners:?}");
        let gone =
            scene.data.forge.delete_repository(&ours(&site(&[]).project, Ulid(winners[0]))).await;
        gone.expect("the winner may delete it");
    }
}

#[tokio::test]
async fn a_template_repository_and_a_status_are_not_supported() {
    let scene = Scene::new();
    let start = Start::Generate("team/template".to_owned());
    let answer = scene.data.forge.create_repository(&NewRepository { start, ..site(&[]) }).await;
    assert!(matches!(answer, Err(PortError::NotSupported { .. })), "{answer:?}");
    assert_eq!(fs::read_dir(scene.data.forge.folder()).expect("a folder").count(), 0);
    let status = CommitStatus {
        git_url: "https://git.example.com/a".parse().expect("a URL"),
        commit: "0".repeat(40).parse().expect("a commit"),
        state: CommitState::Pending,
        description: String::new(),
        url: None,
    };
    let answer = scene.data.forge.set_status(&status).await;
    assert!(matches!(answer, Err(PortError::NotSupported { .. })), "{answer:?}");
}

#[tokio::test]
async fn twenty_concurrent_creations_create_one_repository() {
    let scene = Scene::new();
    let mut makers = Vec::new();
    for number in 0..20 {
        let forge = scene.data.forge.clone();
        makers.push(tokio::spawn(async move {
            let new = site(&[seed("number", &number.to_string())]);
            forge.create_repository(&new).await.expect("created or found")
        }));
    }
    let mut created = Vec::new();
    for maker in makers {
        created.push(maker.await.expect("no panic"));
    }
    assert!(created.iter().all(|repository| *repository == created[0]));
    assert_eq!(fs::read_dir(scene.data.forge.folder()).expect("a folder").count(), 1);
    let folder = created[0].git_url.to_folder().expect("a file: URL");
    assert_eq!(git(&folder, &["rev-list", "--count", "--all"]), "1");
}

#[tokio::test]
async fn a_template_cannot_write_outside_the_tree_or_into_git() {
    let scene = Scene::new();
    for path in ["../x", "/etc/x", "a/../../x", "", "a//b", ".git/config", "a/.GIT/hooks/x", "a\\b"]
    {
        let files = [seed("ok", "1"), seed(path, "2")];
        let answer = scene.data.forge.create_repository(&site(&files)).await;
        assert!(matches!(answer, Err(PortError::Invalid(_))), "{path}: {answer:?}");
    }
    assert_eq!(fs::read_dir(scene.data.forge.folder()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn a_pull_request_is_not_supported() {
    let scene = Scene::new();
    let branches = PullRequestBranches {
        git_url: "https://git.example.com/a".parse().expect("a URL"),
        head: "a".parse().expect("a branch"),
        base: "main".parse().expect("a branch"),
        since: Timestamp::from_millis(0),
    };
    let found = scene.data.forge.find_pull_request(&branches).await;
    assert!(matches!(found, Err(PortError::NotSupported { .. })), "{found:?}");
    let request = PullRequest {
        branches,
        commit: "0".repeat(40).parse().expect("a commit"),
        title: String::new(),
        body: String::new(),
        draft: false,
        labels: vec![],
        reviewers: vec![],
    };
    let answer = scene.data.forge.pull_request(&request).await;
    assert!(matches!(answer, Err(PortError::NotSupported { .. })), "{answer:?}");
}

#[tokio::test]
async fn stale_lock_files_of_a_killed_git_are_removed_when_the_folder_is_opened() {
    let scene = Scene::new();
    let created = scene.data.forge.create_repository(&site(&[seed("a", "1")])).await;
    let folder = created.expect("created").git_url.to_folder().expect("a file: URL");
    let locks = ["HEAD.lock", "packed-refs.lock", "refs/heads/main.lock", "objects/info/x.lock"];
    for lock in locks {
        fs::create_dir_all(folder.join(lock).parent().expect("a folder")).expect("a folder");
        fs::write(folder.join(lock), "").expect("a file");
    }
    let half_done = scene.path("repos/.half-done-x/refs");
    fs::create_dir_all(&half_done).expect("a folder");

    let scene = scene.reopened();
    for lock in locks {
        assert!(!folder.join(lock).exists(), "{lock}");
    }
    assert!(!scene.path("repos/.half-done-x").exists());
    assert_eq!(git(&folder, &["ls-tree", "-r", "--name-only", "main"]), "a");
    git(&folder, &["update-ref", "refs/heads/other", "refs/heads/main"]);
}

#[tokio::test]
async fn a_repository_with_thousands_of_nested_folders_is_deleted_and_stops_no_start() {
    let scene = Scene::new();
    let created = scene.data.forge.create_repository(&site(&[seed("a", "1")])).await;
    let folder = created.expect("created").git_url.to_folder().expect("a file: URL");
    let nest = |folder: &Path| {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut at = openat(CWD, folder, flags, Mode::empty()).expect("a folder");
        for _ in 0..3_000 {
            mkdirat(&at, c"d", Mode::RWXU).expect("a folder");
            at = openat(&at, c"d", flags, Mode::empty()).expect("the folder");
        }
    };
    nest(&folder.join("refs/heads"));
    let half_done = scene.path("repos/.half-done-x");
    fs::create_dir(&half_done).expect("a folder");
    nest(&half_done);

    let scene = scene.reopened();
    assert!(!half_done.exists());
    assert_eq!(git(&folder, &["show", "main:a"]), "1");
    let project = "site".parse().expect("a slug");
    scene.data.forge.delete_repository(&ours(&project, Ulid(1))).await.expect("deleted");
    assert_eq!(fs::read_dir(scene.data.forge.folder()).expect("a folder").count(), 0);
}

#[tokio::test]
async fn the_locks_of_a_push_that_was_left_half_done_stay_because_they_say_whether_it_has_landed() {
    let scene = Scene::new();
    let created = scene.data.forge.create_repository(&site(&[seed("a", "1")])).await;
    let folder = created.expect("created").git_url.to_folder().expect("a file: URL");
    let commit = git(&folder, &["rev-parse", "main"]);
    let write = |name: &str, text: String| {
        fs::create_dir_all(folder.join(name).parent().expect("a folder")).expect("a folder");
        fs::write(folder.join(name), text).expect("a file");
    };
    // As the runner writes them.
    let says = |stage, branch| format!("rdev {stage} {commit} refs/heads/{branch}\n");
    let kept = ["refs/rdev/wip/T/3.lock", "refs/heads/main.lock", "refs/rdev/revoked/T/4.lock"];
    write(kept[0], says("landing  ", "main"));
    write(kept[1], format!("{commit}\n"));
    write(kept[2], says("preparing", "other"));
    // Of a git that was killed, with the name that the last one would have.
    let removed = ["refs/heads/other.lock", "refs/rdev/wip/T/5.lock", "rdev-lock-x1y2z3"];
    for name in removed {
        write(name, String::new());
    }

    let _scene = scene.reopened();
    for name in kept {
        assert!(folder.join(name).exists(), "{name} is gone");
    }
    for name in removed {
        assert!(!folder.join(name).exists(), "{name} is there");
    }
}
