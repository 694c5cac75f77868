//! Every outgoing call, with everything that can go wrong with it, seen from the API.

use std::time::{Duration, Instant};

use rdev_testkit::servers::faults::{self, Fault};
use rdev_testkit::servers::woodpecker::Seed;
use rdev_testkit::tools::trial::Outcome;
use serde_json::{Value, json};

use crate::platform::world::{System, World, wanted};
use crate::support::{Answer, PATIENCE, Server};

rdev_testkit::trials! {
    async whatever_goes_wrong_upstream_is_told_and_never_taken_for_done;
    async a_creation_that_goes_wrong_is_on_record_and_provision_completes_it;
}

/// A request to the API, and the system it needs.
struct Call {
    what: &'static str,
    system: System,
    method: &'static str,
    path: String,
    body: Option<Value>,
}

fn calls(name: &str, pipeline: u64, step: u64) -> Vec<Call> {
    let call = |what, system, method, path: &str, body| {
        let path = format!("/projects/{name}{path}");
        Call { what, system, method, path, body }
    };
    let pipelines = format!("/ci/pipelines/{pipeline}");
    let domain = json!({ "domain": "www", "type": "A", "target": "93.184.216.34" });
    vec![
        call("list pipelines", System::Ci, "GET", "/ci/pipelines", None),
        call("show a pipeline", System::Ci, "GET", &pipelines, None),
        call("a step's log", System::Ci, "GET", &format!("{pipelines}/log?step={step}"), None),
        call("restart", System::Ci, "POST", &format!("{pipelines}/restart"), Some(json!({}))),
        call("cancel", System::Ci, "POST", &format!("{pipelines}/cancel"), Some(json!({}))),
        call("add a domain", System::Dns, "POST", "/domains", Some(domain)),
        call("remove a domain", System::Dns, "DELETE", "/domains/site.example.com", None),
    ]
}

#[expect(clippy::print_stdout, reason = "figures, for the closing lines")]
async fn whatever_goes_wrong_upstream_is_told_and_never_taken_for_done() -> Outcome {
    let world = World::new(2)?;
    let elsewhere = faults::Server::start();
    let server = world.up().await;
    create(&server, "site").await;
    let known = world.woodpecker.repositories().remove(0);
    let seed = Seed {
        event: "push".to_owned(),
        status: "running".to_owned(),
        commit: "0123456789012345678901234567890123456789".to_owned(),
        branch: "main".to_owned(),
        created: 1_767_225_600,
        ..Seed::default()
    };
    let number = world.woodpecker.add_pipeline(known.id, seed);
    let step = world.woodpecker.add_log(known.id, number, &[b"one"]);

    let mut tried = 0;
    for fault in Fault::table(&elsewhere.url()) {
        for call in calls("site", number, step) {
            world.system(call.system).answer_with(fault.clone());
            let answer = server.try_request(call.method, &call.path, call.body, None).await;
            let answer = answer.expect("an answer");
            world.heal();
            let what = format!("{} with {fault:?}: {answer:?}", call.what);
            assert_told(&answer, call.system, &fault, &what);
            tried += 1;
        }
        // What was begun is on record, and the same request completes it.
        let all = server.get("/projects/site/domains").await.body;
        let states: Vec<_> = all["items"].as_array().expect("a list").iter().collect();
        assert!(states.iter().any(|one| one["domain"] == "site.example.com"), "{fault:?}: {all:#}");
        let site = Some(json!({ "domain": "site" }));
        let again = |method, path, body| again(&server, method, path, body);
        again("DELETE", "/projects/site/domains/site.example.com", None).await;
        again("POST", "/projects/site/domains", site).await;
        again("DELETE", "/projects/site/domains/www.example.com", None).await;
        let left = world.powerdns.resolve("www.example.com", "A").answers;
        assert!(left.is_empty(), "{fault:?}: {left:?}");
    }
    println!("{tried} calls went wrong, and all were told");
    assert_seen_nowhere(&world, &elsewhere);
    Ok(())
}

#[expect(clippy::print_stdout, reason = "figures, for the closing lines")]
async fn a_creation_that_goes_wrong_is_on_record_and_provision_completes_it() -> Outcome {
    let world = World::new(2)?;
    let elsewhere = faults::Server::start();
    let server = world.up().await;
    let mut tried = 0;
    for (at, fault) in Fault::table(&elsewhere.url()).into_iter().enumerate() {
        for system in System::ALL {
            let name = format!("p{at}-{}", format!("{system:?}").to_lowercase());
            world.system(system).answer_with(fault.clone());
            let answer = server.post("/project", wanted(&name)).await;
            world.heal();
            let what = format!("{system:?} with {fault:?}: {answer:?}");
            assert_told(&answer, system, &fault, &what);
            tried += 1;
            complete(&world, &server, &name, &what).await;
        }
    }
    println!("{tried} creations went wrong, and all were completed");
    assert_seen_nowhere(&world, &elsewhere);
    Ok(())
}

/// Creates a project, also on a machine so busy that a step needs longer than a call has here.
async fn create(server: &Server, name: &str) {
    let end = Instant::now() + PATIENCE;
    loop {
        let there = server.get(&format!("/projects/{name}")).await;
        if there.body["state"] == "ready" {
            return;
        }
        assert!(Instant::now() < end, "{name} is never ready: {there:?}");
        let answer = if there.status == 404 {
            server.post("/project", wanted(name)).await
        } else {
            server.post(&format!("/projects/{name}/provision"), json!({})).await
        };
        assert!(matches!(answer.status, 200..300 | 504), "{answer:?}");
    }
}

/// The same request until it goes through or finds nothing to do: for as long as a system said
/// that it takes no more requests, rdev sends none.
async fn again(server: &Server, method: &str, path: &str, body: Option<Value>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = server.try_request(method, path, body.clone(), None).await;
        let answer = answer.expect("an answer");
        let gone = method == "DELETE" && answer.status == 404;
        if gone || (200..300).contains(&answer.status) {
            return;
        }
        let limited = answer.body["detail"].as_str().is_some_and(|text| text.contains("no more"));
        // A busy machine may need longer than a call has here.
        let late = answer.status == 504;
        assert!(answer.status == 503 && limited || late, "{method} {path}: {answer:?}");
        assert!(Instant::now() < end, "{method} {path}: {answer:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// What is left of a creation is either nothing at all, or what `provision` completes.
async fn complete(world: &World, server: &Server, name: &str, what: &str) {
    let left = server.get(&format!("/projects/{name}")).await;
    if left.status == 404 {
        let all = world.gitea.repositories();
        let of_it = format!("acme/{name}");
        assert!(all.iter().all(|one| one.full_name != of_it), "{what}");
        return;
    }
    assert_eq!(left.body["state"], "provisioning_failed", "{what}: {left:?}");
    again(server, "POST", &format!("/projects/{name}/provision"), Some(json!({}))).await;
    world.assert_whole(server, name).await;
}

#[track_caller]
fn assert_told(answer: &Answer, system: System, fault: &Fault, what: &str) {
    let Answer { status, body, .. } = answer;
    assert!(body["code"].is_string(), "{what}");
    let expected: &[u16] = match fault {
        Fault::Refused | Fault::Gone | Fault::Limited(_) | Fault::Status(500..) => &[503],
        Fault::CutOff => &[502, 503],
        Fault::Hang => &[504],
        // What a far side may say of what was asked for, with good reason.
        Fault::Status(404 | 409 | 422) => &[404, 409, 422, 502, 503],
        _ => &[502],
    };
    // On a busy machine another system of the same request, a healthy one, may need longer than a
    // call has here. Then the answer names that one.
    let late = *status == 504
        && body["code"] == "upstream_timed_out"
        && System::ALL.into_iter().any(|other| other != system && body["detail"] == late(other));
    assert!(late || expected.contains(status), "{expected:?}: {what}");
}

/// What the API says of a system that needs longer than a call has.
fn late(system: System) -> String {
    let name = match system {
        System::Forge => "the forge",
        System::Ci => "the CI server",
        System::Dns => "the DNS provider",
    };
    format!("{name} did not answer in time")
}

/// No token, and not even a request, went to the host of a redirect.
fn assert_seen_nowhere(world: &World, elsewhere: &faults::Server) {
    let seen = elsewhere.requests();
    assert!(seen.is_empty(), "{seen:?}");
    for system in System::ALL {
        let own = system as usize;
        for (of, token) in world.tokens().iter().enumerate() {
            let shown = world.system(system).requests().iter().any(|one| one.shows(token));
            assert_eq!(shown, of == own, "the token of {of} at {system:?}");
        }
    }
}
