//! What a deletion does where another system refuses.

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::tools::trial::Outcome;

use crate::platform::world::{System, World, assert_problem, wanted};
use crate::support::{Server, rdev};

rdev_testkit::trials! {
    async a_deletion_ends_where_a_system_refuses_and_says_what_stays;
    async the_client_says_what_a_deletion_has_left;
    async a_deletion_waits_for_a_system_that_is_away;
    async a_repository_that_was_renamed_or_moved_is_deleted_and_not_what_has_its_name_now;
}

/// The answer of Gitea to somebody who is not the repository's owner.
fn not_the_owner() -> Fault {
    let body = r#"{"message": "user should be an owner of the repo", "url": ""}"#;
    Fault::Body(403, "application/json", body.to_owned())
}

const DELETE: &str = "/projects/site?delete_repository=true";

/// A world with a project that has everything.
async fn begun() -> Result<(World, Server), rdev_testkit::tools::needs::NotRun> {
    let world = World::new(10)?;
    let server = world.up().await;
    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    Ok((world, server))
}

async fn a_deletion_ends_where_a_system_refuses_and_says_what_stays() -> Outcome {
    for (system, method, part, fault, what, reason) in [
        (
            System::Forge,
            "DELETE",
            "/repos/acme/site",
            not_the_owner(),
            "repository",
            "/site.git stays: the forge (status 403: user should be an owner of the repo)",
        ),
        (System::Ci, "DELETE", "/repos/", Fault::Status(403), "ci", "the CI server (status 403"),
        (System::Ci, "DELETE", "/repos/", Fault::Status(401), "ci", "the CI server (status 401"),
        (System::Dns, "PATCH", "/zones/", Fault::Status(401), "domain", "(status 401"),
    ] {
        let (world, server) = begun().await?;
        world.system(system).break_on(method, part, fault);
        let deleted = server.delete(DELETE).await;
        assert_eq!(deleted.status, 200, "{system:?}: {deleted:?}");
        let stays = deleted.body["stays"].as_array().expect("a list");
        assert_eq!((stays.len(), &stays[0]["what"]), (1, &what.into()), "{deleted:?}");
        let detail = stays[0]["detail"].as_str().expect("a text");
        assert!(detail.contains(reason), "{detail}");
        assert_problem(&server.get("/projects/site").await, 404, "not_found");
        let audit = server.get("/audit?project_id=site").await.body;
        assert_eq!(audit["items"][0]["detail"], detail, "{audit:#}");
        for token in world.tokens() {
            assert!(!detail.contains(&token), "{detail}");
        }
        // The others have removed what was theirs.
        let repositories = world.gitea.repositories().len();
        assert_eq!(repositories, usize::from(system == System::Forge));
        let active = world.woodpecker.repositories().iter().filter(|one| one.active).count();
        assert_eq!(active, usize::from(system == System::Ci));
        let records = world.powerdns.resolve("site.example.com", "A").answers.len();
        assert_eq!(records, usize::from(system == System::Dns));
    }
    Ok(())
}

async fn the_client_says_what_a_deletion_has_left() -> Outcome {
    let (world, server) = begun().await?;
    world.forge.break_on("DELETE", "/repos/acme/site", not_the_owner());
    let said = rdev(&server, &["project", "delete", "site", "--delete-repository"]).await;
    let (first, rest) = said.stderr.split_once('\n').expect("two lines");
    assert_eq!(first, "deleted project site");
    let begins = format!("the repository {}/acme/site.git stays: the forge (", world.forge.url());
    assert!(rest.starts_with(&begins) && rest.lines().count() == 1, "{rest}");
    assert_eq!((said.status, said.stdout.as_str()), (0, ""));
    Ok(())
}

async fn a_deletion_waits_for_a_system_that_is_away() -> Outcome {
    let (world, server) = begun().await?;
    world.forge.break_on("DELETE", "/repos/acme/site", Fault::Status(500));
    assert_problem(&server.delete(DELETE).await, 503, "unavailable");
    assert_eq!(server.get("/projects/site").await.body["state"], "deleting");
    world.heal();
    assert_eq!(server.delete(DELETE).await.status, 204);
    assert!(world.gitea.repositories().is_empty());
    Ok(())
}

async fn a_repository_that_was_renamed_or_moved_is_deleted_and_not_what_has_its_name_now() -> Outcome
{
    for moved_to in ["acme/page", "other/site"] {
        for taken in [false, true] {
            let (world, server) = begun().await?;
            world.gitea.rename("acme/site", moved_to);
            if taken {
                world.gitea.create("acme/site", "a stranger's", &[("a", b"a")]);
            }
            let deleted = server.delete(DELETE).await;
            assert_eq!(deleted.status, 204, "{moved_to}: {deleted:?}");
            let left: Vec<_> =
                world.gitea.repositories().into_iter().map(|one| one.full_name).collect();
            let stays: &[&str] = if taken { &["acme/site"] } else { &[] };
            assert_eq!(left, stays, "{moved_to}");
            assert_problem(&server.get("/projects/site").await, 404, "not_found");
        }
    }
    Ok(())
}
