//! Where the time of a build goes: the moments of its events and of its requests to the git server.

use std::time::SystemTime;

use serde_json::Value;

use super::build::{Measured, time};
use super::report::median;

/// A moment of all builds: what happens then, and how many milliseconds after the request, as the
/// median tells.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moment {
    pub(super) what: String,
    pub(super) after_ms: f64,
}

/// The moments that all builds have, in their order.
pub(super) fn moments<'a>(builds: impl Iterator<Item = &'a Measured>) -> Vec<Moment> {
    let builds: Vec<Vec<(String, f64)>> = builds.map(of).collect();
    let Some(first) = builds.first() else { return Vec::new() };
    let mut moments = Vec::new();
    for (what, _) in first {
        let of_build = |build: &Vec<(String, f64)>| {
            build.iter().find(|(other, _)| other == what).map(|(_, after)| *after)
        };
        let found: Option<Vec<f64>> = builds.iter().map(of_build).collect();
        if let Some(found) = found {
            moments.push(Moment { what: what.clone(), after_ms: median(found) });
        }
    }
    moments.sort_by(|one, other| one.after_ms.total_cmp(&other.after_ms));
    moments
}

/// The moments of one build. rdev's own are whole milliseconds.
fn of(build: &Measured) -> Vec<(String, f64)> {
    let mut moments: Vec<(String, SystemTime)> = Vec::new();
    for event in &build.events {
        if let (Some(what), Ok(at)) = (of_event(event), time(&event["at"])) {
            moments.push((what, at));
        }
    }
    for request in &build.requests.git {
        let service = match request.target.contains("upload-pack") {
            true => "upload-pack",
            false => "receive-pack",
        };
        let what = format!("{} {service}", request.method);
        let earlier = moments.iter().filter(|(other, _)| other.starts_with(&what)).count() / 2;
        let what = format!("{what} {}", earlier + 1);
        moments.push((format!("{what} comes to the server"), request.at));
        // The answers of pushes may still go on when the build has ended.
        let ended = request.ended.unwrap_or(build.told);
        moments.push((format!("{what} has ended there"), ended));
    }
    moments.push(("the store has the end".to_owned(), build.ended));
    moments.push(("the client has the record".to_owned(), build.told));
    let after = |at: SystemTime| match at.duration_since(build.asked) {
        Ok(after) => after.as_secs_f64() * 1000.0,
        Err(before) => before.duration().as_secs_f64() * -1000.0,
    };
    moments.into_iter().map(|(what, at)| (what, after(at))).collect()
}

fn of_event(event: &Value) -> Option<String> {
    let data = &event["data"];
    match event["kind"].as_str()? {
        "state" => Some(format!("the task is {}", data["state"].as_str()?)),
        "phase" => Some(format!("{} {}", data["phase"].as_str()?, data["status"].as_str()?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use rdev_testkit::servers::git_http::Seen;
    use serde_json::json;

    use super::super::forge::Requests;
    use super::*;

    fn at(millis: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(millis)
    }

    fn request(target: &str, from: u64, to: Option<u64>) -> Seen {
        Seen {
            method: "POST".to_owned(),
            target: target.to_owned(),
            authorized: true,
            from: ([127, 0, 0, 1], 1).into(),
            at: at(from),
            ended: to.map(at),
        }
    }

    #[test]
    fn a_builds_moments_are_in_their_order_and_its_repeated_requests_apart() {
        let push = "/site.git/git-receive-pack";
        let phase = json!({ "phase": "agent", "status": "finished" });
        let event = json!({ "kind": "phase", "at": "1970-01-01T00:00:01.010Z", "data": phase });
        let build = Measured {
            seen: Duration::from_millis(100),
            recorded: Duration::from_millis(80),
            asked: at(1000),
            told: at(1100),
            ended: at(1080),
            events: vec![event],
            requests: Requests {
                git: vec![request(push, 1020, Some(1050)), request(push, 1040, None)],
                api: 0,
            },
        };
        let found = moments([&build, &build].into_iter());
        let found: Vec<(&str, f64)> =
            found.iter().map(|moment| (moment.what.as_str(), moment.after_ms.round())).collect();
        let expected = [
            ("agent finished", 10.0),
            ("POST receive-pack 1 comes to the server", 20.0),
            ("POST receive-pack 2 comes to the server", 40.0),
            ("POST receive-pack 1 has ended there", 50.0),
            ("the store has the end", 80.0),
            ("POST receive-pack 2 has ended there", 100.0),
            ("the client has the record", 100.0),
        ];
        assert_eq!(found, expected);
        assert_eq!(super::super::report::pushes_on_path(&build), 2);
    }
}
