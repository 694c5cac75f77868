//! `rdev doctor`.

use std::path::Path;
use std::process::{Command, Output};

use rdev_testkit::servers::faults::Fault;
use rdev_testkit::tools::trial::Outcome;
use serde_json::Value;

use crate::platform::world::{System, World, wanted};
use crate::support::rdev;

rdev_testkit::trials! {
    fn it_looks_and_makes_nothing;
    fn a_repository_whose_pushes_are_not_atomic_is_named;
    async a_forge_that_may_not_send_to_this_address_is_found_out;
    async a_good_installation_has_no_problem_and_each_broken_part_is_named_with_what_to_do;
}

pub(crate) fn doctor(world: &World) -> (i32, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_rdev"))
        .args(["doctor", "--json", "--data-dir"])
        .arg(world.data.path())
        .current_dir(world.data.path())
        .env_clear()
        .env("HOME", world.data.path())
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .expect("rdev starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    let told = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}\n{said}"));
    for token in world.tokens() {
        assert!(!text.contains(&token) && !said.contains(&token), "a token is shown");
    }
    (output.status.code().expect("a status"), told)
}

fn problems(told: &Value) -> Vec<String> {
    let findings = told["findings"].as_array().expect("findings").iter();
    findings
        .filter(|one| !one["problem"].is_null())
        .map(|one| format!("{}: {}", one["what"], one["problem"]))
        .collect()
}

/// The doctor of a data folder, with no settings and nothing in its environment.
fn doctor_at(home: &Path, data: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_rdev"))
        .args(["doctor", "--json", "--data-dir"])
        .arg(data)
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .output()
        .expect("rdev starts")
}

fn it_looks_and_makes_nothing() {
    let place = tempfile::tempdir().expect("a folder");
    let data = place.path().join("not/there/yet");
    let output = doctor_at(place.path(), &data);
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(told["findings"].as_array().is_some_and(|all| all.len() > 3), "{told:#}");
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 0);
}

fn a_repository_whose_pushes_are_not_atomic_is_named() {
    let place = tempfile::tempdir().expect("a folder");
    let known = place.path().join("cache/not-atomic");
    std::fs::create_dir_all(&known).expect("a folder");
    std::fs::write(known.join("one"), "https://git.example.com/site.git").expect("a file");
    let output = doctor_at(place.path(), place.path());
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let named = |one: &&String| one.contains("https://git.example.com/site.git");
    assert_eq!(problems(&told).iter().filter(named).count(), 1, "{told:#}");
    assert_eq!(output.status.code(), Some(1));
}

/// What the doctor says of the forge's messages: what it looked at, and the problem.
fn of_messages(told: &Value) -> (String, Value) {
    let findings = told["findings"].as_array().expect("findings").iter();
    let text = |one: &Value| one["what"].as_str().expect("a text").to_owned();
    let mut found = findings.filter(|one| text(one).starts_with("messages from the forge"));
    let one = found.next().expect("it is looked at");
    assert_eq!(found.next(), None);
    (text(one), one["problem"].clone())
}

async fn a_forge_that_may_not_send_to_this_address_is_found_out() -> Outcome {
    let world = World::new(10)?;
    let server = world.up().await;
    let (what, problem) = of_messages(&doctor(&world).1);
    assert!(what.contains("not tried") && what.contains("no project"), "{what}");
    assert_eq!(problem, Value::Null);

    assert_eq!(server.post("/project", wanted("site")).await.status, 201);
    world.gitea.settled().await;
    let pushed = server.get("/projects/site").await.body["pushed"].clone();
    let hook = format!("{}/hooks/gitea", server.url);
    let (status, told) = doctor(&world);
    let arrived = format!("messages from the forge: one about site has arrived at {hook}");
    assert_eq!((status, of_messages(&told)), (0, (arrived, Value::Null)), "{told:#}");
    let project = server.get("/projects/site").await.body;
    assert_eq!(project["pushed"], pushed, "a test message is no push: {project:#}");
    let count = project["messages"]["count"].as_u64().expect("a number");
    let shown = rdev(&server, &["project", "show", "site"]).await.stdout;
    assert!(shown.contains(&format!("\nmessages     {count}\n")), "{shown}");
    assert!(shown.contains("\nlast one     20"), "{shown}");

    world.gitea.send_to_public_addresses_only(true);
    let (status, told) = doctor(&world);
    let (what, problem) = of_messages(&told);
    assert_eq!((status, what), (1, format!("messages from the forge to {hook}")), "{told:#}");
    let problem = problem.as_str().expect("a problem").to_owned();
    assert!(problem.contains("[webhook] ALLOWED_HOST_LIST"), "{problem}");
    assert_eq!(problems(&told).len(), 1, "{told:#}");
    Ok(())
}

async fn a_good_installation_has_no_problem_and_each_broken_part_is_named_with_what_to_do()
-> Outcome {
    let world = World::new(2)?;
    let _server = world.up().await;
    let (status, told) = doctor(&world);
    assert_eq!((status, problems(&told)), (0, vec![]), "{told:#}");
    for part in ["the forge", "the CI server", "the DNS provider", "the agent command", "server"] {
        assert!(told.to_string().contains(part), "{part}: {told:#}");
    }

    for (system, name) in
        [(System::Forge, "forge"), (System::Ci, "CI server"), (System::Dns, "DNS provider")]
    {
        for fault in [Fault::Refused, Fault::Status(401), Fault::Html, Fault::Hang] {
            world.system(system).answer_with(fault.clone());
            let (status, told) = doctor(&world);
            world.heal();
            let found = problems(&told);
            assert_eq!(status, 1, "{name} with {fault:?}: {told:#}");
            assert!(!found.is_empty(), "{name} with {fault:?}");
            assert!(found.iter().all(|one| one.contains(name)), "{fault:?}: {found:?}");
        }
    }
    Ok(())
}
