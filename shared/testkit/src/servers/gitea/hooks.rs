//! Webhooks: registered, signed, sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use sha2::Sha256;
use ulid::Ulid;

use super::records::{Hook, Repository};
use super::response::{ApiResponse, Call, created, error, no_content, not_found, writable};
use super::state::now;
use super::{HookDelivery, Outgoing, Shared, api, locked, shapes};

/// How long a receiver has.
const TIMEOUT: Duration = Duration::from_secs(5);

const KINDS: [&str; 3] = ["gitea", "forgejo", "gogs"];

/// The events that a hook can be for.
const EVENTS: [&str; 24] = [
    "create",
    "delete",
    "fork",
    "issue_assign",
    "issue_comment",
    "issue_label",
    "issue_milestone",
    "issues",
    "package",
    "pull_request",
    "pull_request_assign",
    "pull_request_comment",
    "pull_request_label",
    "pull_request_milestone",
    "pull_request_review",
    "pull_request_review_request",
    "pull_request_sync",
    "push",
    "release",
    "repository",
    "status",
    "wiki",
    "workflow_job",
    "workflow_run",
];

/// The events that were asked for. `issues` and `pull_request` are for all of their kind; a name
/// that is none is passed over.
fn known(asked: &[String]) -> Vec<String> {
    let asked = |event: &str| asked.iter().any(|asked| asked == event);
    let wanted = |event: &&&str| {
        let event: &str = event;
        asked(event)
            || (event.starts_with("issue_") && asked("issues"))
            || (event.starts_with("pull_request_") && asked("pull_request"))
    };
    EVENTS.iter().filter(wanted).map(|&event| event.to_owned()).collect()
}

pub(super) fn list(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    Ok(api::list_of(&state, call, &found.hooks, shapes::hook))
}

pub(super) fn create(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    let kind = call.required("type")?;
    let setting = |name: &str| {
        let value = call.body.get("config").and_then(|config| config.get(name));
        value.and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if !KINDS.contains(&kind.as_str()) {
        return Err(error(422, format!("Invalid hook type: {kind}")));
    }
    for name in ["url", "content_type"] {
        if setting(name).is_empty() {
            return Err(error(422, format!("Missing config option: {name}")));
        }
    }
    if setting("content_type") != "json" {
        return Err(error(422, "Invalid content type"));
    }
    let asked = call.texts("events").filter(|events| !events.is_empty());
    let events = known(&asked.unwrap_or_else(|| vec!["push".to_owned()]));
    let hook = Hook {
        id: state.next_id(),
        kind,
        url: setting("url"),
        secret: setting("secret"),
        events,
        active: call.flag("active"),
        created: now(),
    };
    let shape = shapes::hook(&hook);
    if let Some(found) = state.repositories.get_mut(&found.full_name().to_lowercase()) {
        found.hooks.push(hook);
    }
    Ok(created(shape))
}

pub(super) fn delete(
    shared: &Shared,
    call: &Call,
    owner: &str,
    name: &str,
    id: &str,
) -> Result<ApiResponse, ApiResponse> {
    let mut state = locked(&shared.state);
    let found = writable(&state, call, owner, name)?;
    let found = state.repositories.get_mut(&found.full_name().to_lowercase());
    let found = found.ok_or_else(not_found)?;
    let at = found.hooks.iter().position(|hook| hook.id.to_string() == id);
    found.hooks.remove(at.ok_or_else(not_found)?);
    Ok(no_content())
}

/// Sends an event to the repository's hooks that want it, without waiting for them.
pub(super) fn fire(shared: &Shared, repository: &Repository, event: &str, payload: &Value) {
    // Of the hooks there are now, and not when the request began.
    let hooks = locked(&shared.state)
        .repositories
        .get(&repository.full_name().to_lowercase())
        .map(|found| found.hooks.clone())
        .unwrap_or_default();
    for hook in hooks {
        if !hook.active || !hook.events.iter().any(|subscribed| subscribed == event) {
            continue;
        }
        deliver(shared, repository, hook, event, payload);
    }
}

/// Sends an event to one hook, without waiting for it.
pub(super) fn deliver(
    shared: &Shared,
    repository: &Repository,
    hook: Hook,
    event: &str,
    payload: &Value,
) {
    let delivery = HookDelivery {
        full_name: repository.full_name(),
        url: hook.url,
        event: event.to_owned(),
        id: Ulid::generate().to_string(),
        payload: payload.clone(),
        status: None,
    };
    // Every address that a test has is a private one.
    if shared.outgoing.public_only.load(Ordering::Relaxed) {
        locked(&shared.outgoing.deliveries).push(delivery);
        return;
    }
    let outgoing = Arc::clone(&shared.outgoing);
    outgoing.under_way.send_modify(|count| *count += 1);
    let arrival = Arrival { outgoing };
    shared.outgoing.runtime.spawn(async move {
        let sent = tokio::time::timeout(TIMEOUT, send(&delivery, &hook.secret)).await;
        let status = sent.ok().flatten();
        locked(&arrival.outgoing.deliveries).push(HookDelivery { status, ..delivery });
        drop(arrival);
    });
}

/// Counts a webhook as arrived, however its task ends.
struct Arrival {
    outgoing: Arc<Outgoing>,
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.outgoing.under_way.send_modify(|count| *count -= 1);
    }
}

/// The status of the answer.
async fn send(delivery: &HookDelivery, secret: &str) -> Option<u16> {
    let body = format!("{:#}", delivery.payload);
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
    mac.update(body.as_bytes());
    let signature: String =
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let mut request = Request::post(delivery.url.as_str())
        .header("content-type", "application/json")
        .header("x-github-event", &delivery.event)
        .header("x-hub-signature-256", format!("sha256={signature}"));
    // Forgejo sends all of them, Gitea those with its own name.
    for name in ["gitea", "forgejo", "gogs"] {
        request = request
            .header(format!("x-{name}-event"), &delivery.event)
            .header(format!("x-{name}-event-type"), &delivery.event)
            .header(format!("x-{name}-delivery"), &delivery.id)
            .header(format!("x-{name}-signature"), &signature);
    }
    let request = request.body(Full::from(Bytes::from(body))).ok()?;
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.ok()?;
    let status = answer.status().as_u16();
    answer.into_body().collect().await.ok()?;
    Some(status)
}
