//! The Gitea adapter against a stateful Gitea: repositories.

use std::path::Path;

use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{
    Conflict, Forge, NewRepository, OwnRepository, PortError, Repository, SeedFile, Start,
};
use rdev_domain::secret::Secret;
use rdev_domain::token::Token;
use rdev_platform::gitea::{Gitea, Hook, Settings, TestMessage};
use rdev_testkit::servers::faults::{Fault, Server};
use rdev_testkit::servers::git_http::{git, try_git};
use rdev_testkit::servers::gitea::{self, TOKEN, USER};
use tempfile::TempDir;
use ulid::Ulid;

rdev_testkit::trials! {
    async a_new_repository_has_the_seed_in_one_commit_and_a_hook;
    async a_public_repository_is_made_only_where_the_settings_say_so;
    async a_private_repository_is_cloned_with_the_token_alone;
    async a_foreign_repository_is_a_conflict_and_stays_as_it_is;
    async a_description_keeps_its_mark_whatever_is_in_it;
    async an_empty_seed_leaves_the_repository_empty;
    async whatever_call_has_lost_its_answer_the_next_try_completes_it;
    async a_repository_that_somebody_else_filled_first_is_not_taken_for_seeded;
    async a_seed_is_found_below_many_commits;
    async a_hook_is_found_behind_others_and_not_registered_twice;
    async a_test_message_goes_through_our_own_hook;
    async a_template_repository_is_copied;
    async a_users_own_repositories_work_like_an_organisations;
    async a_token_that_may_not_read_its_user_makes_repositories_in_an_organisation;
    async a_repository_is_deleted_once_and_only_by_its_nonce;
    async a_repository_that_was_moved_is_deleted_where_it_is_and_never_another_one;
    async a_moved_repository_without_our_tag_is_kept;
    async a_clone_url_lies_on_the_configured_origin;
    async a_name_or_file_that_the_forge_refuses_is_invalid;
}

/// Where the webhooks of these tests go: a port that nobody listens on.
pub(crate) const HOOK: &str = "http://127.0.0.1:9/hooks/gitea";

pub(crate) fn settings(url: &str, owner: &str) -> Settings {
    let hook = Hook { url: HOOK.to_owned(), secret: Token::known(Secret::new("hook-secret")) };
    Settings {
        url: url.to_owned(),
        owner: owner.to_owned(),
        private: true,
        timeout_s: 10,
        hook: Some(hook),
    }
}

pub(crate) fn adapter(settings: Settings, token: &str) -> Gitea {
    Gitea::new(settings, Token::known(Secret::new(token))).expect("an adapter")
}

/// The adapter for the organisation `acme`.
pub(crate) fn acme(url: &str) -> Gitea {
    adapter(settings(url, "acme"), TOKEN)
}

/// The same, which gives up after a second.
pub(crate) fn hasty(url: &str) -> Gitea {
    adapter(Settings { timeout_s: 1, ..settings(url, "acme") }, TOKEN)
}

pub(crate) fn wanted(name: &str, start: Start) -> NewRepository {
    NewRepository {
        project: name.parse().expect("a project id"),
        nonce: Ulid::generate(),
        description: "Site of Acme".to_owned(),
        branch: "trunk".parse().expect("a branch"),
        start,
    }
}

/// A repository whose id is not known.
pub(crate) fn ours(project: &ProjectId, nonce: Ulid) -> OwnRepository {
    OwnRepository { project: project.clone(), nonce, forge_id: None }
}

pub(crate) fn seed() -> Start {
    let file =
        |path: &str, content: &[u8]| SeedFile { path: path.to_owned(), content: content.to_vec() };
    Start::Seed(vec![
        file("README.md", b"# Site\n"),
        file("src/deep/ly/page.astro", "<h1>Grüße</h1>\n".as_bytes()),
        file("logo.bin", &[0, 255, 10, 13]),
        file("empty", b""),
    ])
}

/// The whole content of a clone by git itself.
fn clone(url: &str, login: &str) -> Result<(TempDir, Vec<String>), String> {
    let folder = TempDir::new().expect("a folder for the clone");
    let url = url.replace("http://", &format!("http://{login}"));
    try_git(folder.path(), &["clone", "--quiet", &url, "."])?;
    let files = git(folder.path(), &["ls-files"]);
    Ok((folder, files.lines().map(str::to_owned).collect()))
}

fn read(folder: &Path, path: &str) -> Vec<u8> {
    std::fs::read(folder.join(path)).expect(path)
}

pub(crate) fn not_ours<T: std::fmt::Debug>(outcome: &Result<T, PortError>) -> bool {
    matches!(outcome, Err(PortError::Conflict(Conflict::RepositoryNotOurs)))
}

/// Exactly one repository, with exactly one commit and one hook, and the seed in it.
pub(crate) fn whole(gitea: &gitea::Gitea, made: &Repository, new: &NewRepository) {
    let full_name = format!("acme/{}", new.project);
    let all = gitea.repositories();
    let [info] = all.iter().filter(|info| info.full_name == full_name).collect::<Vec<_>>()[..]
    else {
        panic!("{all:?}")
    };
    assert_eq!(made.forge_id, Some(info.id));
    assert_eq!(made.default_branch.as_str(), "trunk");
    assert_eq!(gitea.git(&full_name, &["rev-list", "--count", "--all"]), "1");
    assert_eq!(
        gitea.git(&full_name, &["ls-tree", "-r", "--name-only", "trunk"]).lines().count(),
        4
    );
    assert_eq!(gitea.hooks(&full_name).len(), 1);
}

async fn a_new_repository_has_the_seed_in_one_commit_and_a_hook() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = acme(&gitea.url());
    let new = wanted("site", seed());
    let made = forge.create_repository(&new).await.expect("a repository");
    assert_eq!(made.git_url.as_str(), format!("{}/acme/site.git", gitea.url()));
    whole(&gitea, &made, &new);

    let login = format!("oauth2:{TOKEN}@");
    let (folder, files) = clone(made.git_url.as_str(), &login).expect("a clone");
    assert_eq!(files, ["README.md", "empty", "logo.bin", "src/deep/ly/page.astro"]);
    assert_eq!(read(folder.path(), "logo.bin"), [0, 255, 10, 13]);
    assert_eq!(read(folder.path(), "src/deep/ly/page.astro"), "<h1>Grüße</h1>\n".as_bytes());
    assert_eq!(read(folder.path(), "empty"), b"");
    let log = git(folder.path(), &["log", "--format=%s%n%(trailers:only)"]);
    assert_eq!(log, format!("Start from the template\nRdev-Seed: {}", new.nonce));
    assert_eq!(git(folder.path(), &["branch", "--show-current"]), "trunk");

    let info = gitea.repositories().remove(0);
    assert_eq!(info.description, format!("Site of Acme [rdev:{}]", new.nonce));
    assert!(info.private);
    let hook = gitea.hooks("acme/site").remove(0);
    assert_eq!((hook.url.as_str(), hook.secret.as_str()), (HOOK, "hook-secret"));
    assert_eq!(hook.events, ["push", "status"]);
    assert!(hook.active);

    // Again, by another process: the same.
    let again = acme(&gitea.url()).create_repository(&new).await.expect("the repository");
    assert_eq!(again, made);
    whole(&gitea, &made, &new);
}

async fn a_public_repository_is_made_only_where_the_settings_say_so() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = adapter(Settings { private: false, ..settings(&gitea.url(), "acme") }, TOKEN);
    let made = forge.create_repository(&wanted("site", seed())).await.expect("a repository");
    assert!(!gitea.repositories().remove(0).private);
    assert_eq!(clone(made.git_url.as_str(), "").expect("a clone").1.len(), 4);
}

async fn a_private_repository_is_cloned_with_the_token_alone() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = acme(&gitea.url());
    let made = forge.create_repository(&wanted("site", seed())).await.expect("a repository");
    assert!(gitea.repositories().remove(0).private);
    let url = made.git_url.as_str();
    assert!(clone(url, "").is_err());
    assert!(clone(url, "oauth2:wrong@").is_err());
    let stranger = gitea.user("mallory");
    assert!(clone(url, &format!("oauth2:{stranger}@")).is_err());
    for login in
        [format!("oauth2:{TOKEN}@"), format!("x-access-token:{TOKEN}@"), format!("{TOKEN}:@")]
    {
        assert_eq!(clone(url, &login).expect("a clone").1.len(), 4);
    }
}

async fn a_foreign_repository_is_a_conflict_and_stays_as_it_is() {
    let gitea = gitea::Gitea::start(&["acme"]);
    gitea.create("acme/site", "Ours [rdev:01JDGZ2V9QK8M3T5X7Y9ABCDEF]", &[("a", b"a")]);
    let (before, forge) = (gitea.repositories(), acme(&gitea.url()));
    for start in [seed(), Start::Seed(Vec::new())] {
        let new = wanted("site", start);
        assert!(not_ours(&forge.create_repository(&new).await));
        assert!(not_ours(&forge.delete_repository(&ours(&new.project, new.nonce)).await));
    }
    // Nor does an ownership tag of another's choice in the description's middle make it ours.
    let new = wanted("site", seed());
    gitea.describe("acme/site", &format!("[rdev:{}] but mine", new.nonce));
    assert!(not_ours(&forge.create_repository(&new).await));
    assert!(not_ours(&forge.delete_repository(&ours(&new.project, new.nonce)).await));
    assert_eq!(gitea.repositories().len(), before.len());
    assert_eq!(gitea.hooks("acme/site"), []);
    assert_eq!(gitea.git("acme/site", &["rev-list", "--count", "--all"]), "1");
}

async fn a_description_keeps_its_mark_whatever_is_in_it() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = acme(&gitea.url());
    for (name, text) in [("empty", ""), ("long", &"ü".repeat(5000)), ("fake", "x [rdev:1]")] {
        let new = NewRepository { description: text.to_owned(), ..wanted(name, seed()) };
        let made = forge.create_repository(&new).await.expect("a repository");
        whole(&gitea, &made, &new);
        let all = gitea.repositories();
        let info = all.iter().find(|info| info.full_name.ends_with(name)).expect(name);
        assert!(info.description.ends_with(&format!("[rdev:{}]", new.nonce)));
        assert!(info.description.chars().count() <= 2048);
    }
}

async fn an_empty_seed_leaves_the_repository_empty() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let new = wanted("site", Start::Seed(Vec::new()));
    let made = acme(&gitea.url()).create_repository(&new).await.expect("a repository");
    assert_eq!(made.default_branch.as_str(), "trunk");
    assert_eq!(gitea.git("acme/site", &["for-each-ref"]), "");
    assert_eq!(gitea.git("acme/site", &["symbolic-ref", "HEAD"]), "refs/heads/trunk");
    assert_eq!(gitea.hooks("acme/site").len(), 1);
    let again = acme(&gitea.url()).create_repository(&new).await.expect("the repository");
    assert_eq!(again, made);
}

async fn whatever_call_has_lost_its_answer_the_next_try_completes_it() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    acme(&server.url()).create_repository(&wanted("first", seed())).await.expect("a repository");
    let calls = server.requests().len();
    assert_eq!(calls, 5, "its user, the repository, its content, its hooks, the hook");
    for call in 0..calls {
        let new = wanted(&format!("site-{call}"), seed());
        server.break_nth(call, Fault::HoldAnswer);
        let lost = hasty(&server.url()).create_repository(&new).await;
        assert!(matches!(lost, Err(PortError::TimedOut { .. })), "{call}: {lost:?}");
        server.heal();
        let made = acme(&server.url()).create_repository(&new).await.expect("a repository");
        whole(&gitea, &made, &new);
    }
    // The same when nothing was done: the process died before the call.
    for call in 0..calls {
        let new = wanted(&format!("page-{call}"), seed());
        server.break_nth(call, Fault::Refused);
        let refused = acme(&server.url()).create_repository(&new).await;
        assert!(matches!(refused, Err(PortError::Unavailable { .. })), "{call}: {refused:?}");
        server.heal();
        let made = acme(&server.url()).create_repository(&new).await.expect("a repository");
        whole(&gitea, &made, &new);
    }
}

async fn a_repository_that_somebody_else_filled_first_is_not_taken_for_seeded() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    let new = wanted("site", seed());
    server.break_on("POST", "/contents", Fault::Gone);
    assert!(acme(&server.url()).create_repository(&new).await.is_err());
    server.heal();
    gitea.commit("acme/site", "trunk", &[("mine.txt", b"mine")], "Be faster");
    assert!(not_ours(&acme(&server.url()).create_repository(&new).await));
    assert_eq!(gitea.git("acme/site", &["rev-list", "--count", "--all"]), "1");
}

async fn a_seed_is_found_below_many_commits() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let new = wanted("site", seed());
    let made = acme(&gitea.url()).create_repository(&new).await.expect("a repository");
    gitea.shorten_pages(3);
    for number in 0..7 {
        let content = [("count", &[number][..])];
        gitea.commit("acme/site", "trunk", &content, &format!("Count {number}"));
    }
    let again = acme(&gitea.url()).create_repository(&new).await.expect("the repository");
    assert_eq!(again, made);
    assert_eq!(gitea.git("acme/site", &["rev-list", "--count", "--all"]), "8");
}

async fn a_hook_is_found_behind_others_and_not_registered_twice() {
    let gitea = gitea::Gitea::start(&["acme"]);
    gitea.shorten_pages(2);
    let new = wanted("site", seed());
    let url = gitea.url();
    for number in 0..5 {
        let hook = Hook { url: format!("{HOOK}/{number}"), secret: Token::known(Secret::new("s")) };
        let forge = adapter(Settings { hook: Some(hook), ..settings(&url, "acme") }, TOKEN);
        forge.create_repository(&new).await.expect("a repository");
    }
    for _ in 0..2 {
        acme(&url).create_repository(&new).await.expect("a repository");
        let hook = Hook { url: format!("{HOOK}/4"), secret: Token::known(Secret::new("s")) };
        let forge = adapter(Settings { hook: Some(hook), ..settings(&url, "acme") }, TOKEN);
        forge.create_repository(&new).await.expect("a repository");
    }
    assert_eq!(gitea.hooks("acme/site").len(), 6);
    let none = adapter(Settings { hook: None, ..settings(&url, "acme") }, TOKEN);
    none.create_repository(&wanted("plain", seed())).await.expect("a repository");
    assert_eq!(gitea.hooks("acme/plain"), []);
}

async fn a_test_message_goes_through_our_own_hook() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = acme(&gitea.url());
    let new = wanted("site", seed());
    forge.create_repository(&new).await.expect("a repository");
    gitea.settled().await;
    let before = gitea.deliveries().len();
    let queued = forge.send_test_message(&new.project).await.expect("an answer");
    assert_eq!(queued, TestMessage::Queued { to: HOOK.to_owned() });
    gitea.settled().await;
    let sent = gitea.deliveries().split_off(before);
    let [one] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((one.url.as_str(), one.event.as_str()), (HOOK, "push"));
    let tip = gitea.git("acme/site", &["rev-parse", "trunk"]);
    assert_eq!((&one.payload["before"], &one.payload["after"]), (&tip.clone().into(), &tip.into()));

    // The hook of another installation is not ours to try.
    let hook = Hook {
        url: "http://127.0.0.1:10/hooks/gitea".to_owned(),
        secret: Token::known(Secret::new("hook-secret")),
    };
    let elsewhere = Settings { hook: Some(hook.clone()), ..settings(&gitea.url(), "acme") };
    let none = adapter(elsewhere, TOKEN).send_test_message(&new.project).await;
    assert_eq!(none.expect("an answer"), TestMessage::NoHook { to: hook.url });
    let without = Settings { hook: None, ..settings(&gitea.url(), "acme") };
    let none = adapter(without, TOKEN).send_test_message(&new.project).await;
    assert_eq!(none.expect("an answer"), TestMessage::NotConfigured);
    assert_eq!(gitea.deliveries().len(), before + 1);
}

async fn a_template_repository_is_copied() {
    let gitea = gitea::Gitea::start(&["acme", "templates"]);
    gitea.create("templates/site", "", &[("index.html", b"<h1>")]);
    gitea.set_template("templates/site", true);
    gitea.create("templates/bare", "", &[]);
    gitea.set_template("templates/bare", true);
    gitea.create("templates/plain", "", &[("a", b"a")]);
    let server = Server::before(&gitea.url());
    let start = |name: &str| Start::Generate(format!("templates/{name}"));

    let new = wanted("site", start("site"));
    server.break_on("POST", "/generate", Fault::HoldAnswer);
    let lost = hasty(&server.url()).create_repository(&new).await;
    assert!(matches!(lost, Err(PortError::TimedOut { .. })));
    server.heal();
    let made = acme(&server.url()).create_repository(&new).await.expect("a repository");
    let again = acme(&server.url()).create_repository(&new).await.expect("a repository");
    assert_eq!(again, made);
    assert_eq!(gitea.git("acme/site", &["ls-tree", "-r", "--name-only", "trunk"]), "index.html");
    assert_eq!(gitea.git("acme/site", &["rev-list", "--count", "--all"]), "1");
    assert_eq!(gitea.hooks("acme/site").len(), 1);
    let other = wanted("site", start("site"));
    assert!(not_ours(&acme(&server.url()).create_repository(&other).await));

    // Of nothing comes nothing.
    let empty = wanted("bare", start("bare"));
    acme(&server.url()).create_repository(&empty).await.expect("a repository");
    acme(&server.url()).create_repository(&empty).await.expect("a repository");

    for bad in ["plain", "absent", "", "a/b", ".."] {
        let new = wanted("other", start(bad));
        let refused = acme(&server.url()).create_repository(&new).await;
        assert!(matches!(refused, Err(PortError::Invalid(_))), "{bad}: {refused:?}");
    }
    assert!(gitea.repositories().iter().all(|info| info.full_name != "acme/other"));
}

async fn a_users_own_repositories_work_like_an_organisations() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let own = |name: &str| adapter(settings(&gitea.url(), name), TOKEN);
    let new = wanted("site", seed());
    let made = own(USER).create_repository(&new).await.expect("a repository");
    assert_eq!(made.git_url.as_str(), gitea.clone_url(&format!("{USER}/site")));
    let again = own(&USER.to_uppercase()).create_repository(&new).await.expect("a repository");
    assert_eq!(again.forge_id, made.forge_id);
    own(USER).delete_repository(&ours(&new.project, new.nonce)).await.expect("gone");
    assert_eq!(gitea.repositories(), []);

    // Neither the token's user nor an organisation.
    let refused = own("nobody").create_repository(&new).await;
    assert!(matches!(refused, Err(PortError::Upstream { .. })), "{refused:?}");
}

async fn a_token_that_may_not_read_its_user_makes_repositories_in_an_organisation() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let token = gitea.token(&["write:repository", "write:organization"]);
    let forge = adapter(settings(&gitea.url(), "acme"), &token);
    let new = wanted("site", seed());
    let made = forge.create_repository(&new).await.expect("a repository");
    whole(&gitea, &made, &new);
}

async fn a_repository_is_deleted_once_and_only_by_its_nonce() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let server = Server::before(&gitea.url());
    let forge = acme(&server.url());
    let new = wanted("site", seed());
    forge.create_repository(&new).await.expect("a repository");
    assert!(not_ours(&forge.delete_repository(&ours(&new.project, Ulid::generate())).await));
    assert_eq!(gitea.repositories().len(), 1);
    server.break_on("DELETE", "/repos/", Fault::HoldAnswer);
    let lost = hasty(&server.url()).delete_repository(&ours(&new.project, new.nonce)).await;
    assert!(matches!(lost, Err(PortError::TimedOut { .. })));
    server.heal();
    for _ in 0..2 {
        forge.delete_repository(&ours(&new.project, new.nonce)).await.expect("gone");
        assert_eq!(gitea.repositories(), []);
    }
    // At a wrong URL everything is not there, which says nothing.
    let wrong = acme(&format!("{}/forge", gitea.url()));
    let outcome = wrong.delete_repository(&ours(&new.project, new.nonce)).await;
    assert!(matches!(outcome, Err(PortError::Upstream { .. })), "{outcome:?}");
}

async fn a_repository_that_was_moved_is_deleted_where_it_is_and_never_another_one() {
    for moved_to in ["acme/page", "other/page", "other/site"] {
        let gitea = gitea::Gitea::start(&["acme", "other"]);
        let forge = acme(&gitea.url());
        let new = wanted("site", seed());
        let made = forge.create_repository(&new).await.expect("a repository");
        let site = OwnRepository { forge_id: made.forge_id, ..ours(&new.project, new.nonce) };
        gitea.rename("acme/site", moved_to);
        // Another project's, or a stranger's, has the old name by now.
        let later = wanted("site", seed());
        let later = (moved_to == "other/page").then_some(later);
        match &later {
            Some(later) => drop(forge.create_repository(later).await.expect("the name is free")),
            None => drop(gitea.create("acme/site", "a stranger's", &[("a", b"a")])),
        }
        let stays = || {
            let left = gitea.repositories();
            assert_eq!(left.len(), 1, "{moved_to}: {left:?}");
            assert_eq!(left[0].full_name, "acme/site");
            assert_ne!(Some(left[0].id), made.forge_id);
        };
        forge.delete_repository(&site).await.expect("gone");
        stays();
        // Again, as after a lost answer: ours is gone, and what has its name stays.
        forge.delete_repository(&site).await.expect("it is gone already");
        stays();
        // Without the id nobody knows that ours is gone.
        let refused = forge.delete_repository(&ours(&new.project, new.nonce)).await;
        assert!(not_ours(&refused), "{refused:?}");
        stays();
    }
}

async fn a_moved_repository_without_our_tag_is_kept() {
    let gitea = gitea::Gitea::start(&["acme", "other"]);
    let forge = acme(&gitea.url());
    let new = wanted("site", seed());
    let made = forge.create_repository(&new).await.expect("a repository");
    gitea.rename("acme/site", "other/site");
    let site = OwnRepository { forge_id: made.forge_id, ..ours(&new.project, Ulid::generate()) };
    assert!(not_ours(&forge.delete_repository(&site).await));
    assert_eq!(gitea.repositories().len(), 1);
}

async fn a_clone_url_lies_on_the_configured_origin() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let forge = acme(&gitea.url());
    let new = wanted("site", seed());
    for (root, expected) in [
        (gitea.url(), gitea.clone_url("acme/site")),
        (format!("{}/forge", gitea.url()), format!("{}/forge/acme/site.git", gitea.url())),
        ("https://git.example.com".to_owned(), gitea.clone_url("acme/site")),
        ("http://127.0.0.1:1".to_owned(), gitea.clone_url("acme/site")),
        ("javascript:x".to_owned(), gitea.clone_url("acme/site")),
    ] {
        gitea.believes_url(&root);
        let made = forge.create_repository(&new).await.expect("a repository");
        assert_eq!(made.git_url.as_str(), expected, "{root}");
    }
}

async fn a_name_or_file_that_the_forge_refuses_is_invalid() {
    let gitea = gitea::Gitea::start(&["acme"]);
    let file = SeedFile { path: "a/../b".to_owned(), content: Vec::new() };
    let refused =
        acme(&gitea.url()).create_repository(&wanted("site", Start::Seed(vec![file]))).await;
    assert!(matches!(refused, Err(PortError::Invalid(_))), "{refused:?}");
    for owner in ["", ".", "..", "a/b", "a b", "ä"] {
        let made = Gitea::new(settings(&gitea.url(), owner), Token::known(Secret::new("t")));
        assert!(made.is_err(), "{owner:?}");
    }
}
