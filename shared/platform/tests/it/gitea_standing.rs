//! The Gitea adapter against a stateful Gitea: where a repository is, and whether it takes a push.

use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{Forge, PortError, PushRight, PushTarget, Standing, Start};
use rdev_testkit::servers::gitea;

use crate::gitea::{acme, adapter, settings, wanted};

rdev_testkit::trials! {
    async a_repository_is_found_by_its_id_wherever_it_is;
    async without_an_id_a_repository_is_found_by_its_name_alone;
    async one_that_is_gone_is_not_found_unless_another_one_has_its_name;
    async each_reason_why_a_push_is_refused_is_told;
    async a_repository_on_another_server_is_none_of_its_business;
}

/// A forge with the repository `acme/site`, its adapter, and what a build of it asks.
async fn begun() -> (gitea::Gitea, rdev_platform::gitea::Gitea, PushTarget) {
    let gitea = gitea::Gitea::start(&["acme", "other"]);
    let forge = acme(&gitea.url());
    let new = wanted("site", crate::gitea::seed());
    let made = forge.create_repository(&new).await.expect("a repository");
    let target = PushTarget {
        git_url: made.git_url,
        forge_id: made.forge_id,
        branch: "trunk".parse().expect("a branch"),
    };
    (gitea, forge, target)
}

fn url(gitea: &gitea::Gitea, full_name: &str) -> GitUrl {
    gitea.clone_url(full_name).parse().expect("a URL")
}

fn granted(moved_to: Option<GitUrl>) -> Standing {
    Standing { moved_to, push: PushRight::Granted }
}

async fn a_repository_is_found_by_its_id_wherever_it_is() {
    let (gitea, forge, target) = begun().await;
    assert_eq!(forge.standing(&target).await.expect("it is there"), granted(None));
    for new in ["acme/Page", "other/page", "acme/site"] {
        let old = gitea.repositories().remove(0).full_name;
        gitea.rename(&old, new);
        let standing = forge.standing(&target).await.expect("it is there");
        let elsewhere = (new != "acme/site").then(|| url(&gitea, new));
        assert_eq!(standing, granted(elsewhere), "{new}");
    }
    // An absent branch is not protected, whatever is in its name.
    let branch = "rdev/a/b".parse().expect("a branch");
    let absent = PushTarget { branch, ..target };
    assert_eq!(forge.standing(&absent).await.expect("it is there"), granted(None));
}

async fn without_an_id_a_repository_is_found_by_its_name_alone() {
    let (gitea, forge, target) = begun().await;
    let target = PushTarget { forge_id: None, ..target };
    assert_eq!(forge.standing(&target).await.expect("it is there"), granted(None));
    gitea.rename("acme/site", "acme/page");
    let answer = forge.standing(&target).await;
    assert!(matches!(answer, Err(PortError::Upstream { .. })), "a redirect: {answer:?}");
}

async fn one_that_is_gone_is_not_found_unless_another_one_has_its_name() {
    let (gitea, forge, target) = begun().await;
    gitea.remove("acme/site");
    for forge_id in [target.forge_id, None] {
        let answer = forge.standing(&PushTarget { forge_id, ..target.clone() }).await;
        assert!(matches!(answer, Err(PortError::NotFound { .. })), "{answer:?}");
    }
    let again = wanted("site", Start::Seed(vec![]));
    forge.create_repository(&again).await.expect("people make it anew");
    assert_eq!(forge.standing(&target).await.expect("it is there"), granted(None));
}

async fn each_reason_why_a_push_is_refused_is_told() {
    let (gitea, forge, target) = begun().await;
    let push = async |forge: &rdev_platform::gitea::Gitea| {
        forge.standing(&target).await.expect("it is there").push
    };
    gitea.protect("acme/site", "trunk");
    assert_eq!(push(&forge).await, PushRight::BranchProtected);
    let other = PushTarget { branch: "main".parse().expect("a branch"), ..target.clone() };
    assert_eq!(forge.standing(&other).await.expect("it is there").push, PushRight::Granted);

    gitea.archive("acme/site", true);
    assert_eq!(push(&forge).await, PushRight::Archived);
    gitea.archive("acme/site", false);
    gitea.rename("acme/site", "acme/page");
    assert_eq!(push(&forge).await, PushRight::BranchProtected, "under its new name, too");

    let target = PushTarget { git_url: url(&gitea, "acme/page"), ..target.clone() };
    let reader = adapter(settings(&gitea.url(), "acme"), &gitea.user("reader"));
    let answer = reader.standing(&target).await;
    assert!(matches!(answer, Err(PortError::NotFound { .. })), "it is private: {answer:?}");
    let scoped = adapter(settings(&gitea.url(), "acme"), &gitea.token(&["read:user"]));
    let answer = scoped.standing(&target).await;
    assert!(matches!(answer, Err(PortError::Denied { .. })), "{answer:?}");
}

async fn a_repository_on_another_server_is_none_of_its_business() {
    let (_gitea, forge, target) = begun().await;
    let git_url = "https://git.example.com/acme/site.git".parse().expect("a URL");
    let answer = forge.standing(&PushTarget { git_url, ..target }).await;
    assert!(matches!(answer, Err(PortError::NotSupported { .. })), "{answer:?}");
}
