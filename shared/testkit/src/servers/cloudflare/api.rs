//! The endpoints: authorisation, limits, paths.

use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::extract::{Request, State as Shared};
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use super::records::{Refused, Zone, delete, unreadable};
use super::{State, TOKEN, locked, shapes};

/// The longest body that is read.
const MAX_BODY: usize = 1 << 20;

type Answer = Result<Value, Refused>;

pub(super) async fn answer(
    Shared(shared): Shared<Arc<Mutex<State>>>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_BODY).await.unwrap_or_default();
    let mut state = locked(&shared);
    state.requests += 1;
    if let Some((left, seconds)) = &mut state.limit {
        if *left == 0 {
            let seconds = *seconds;
            drop(state);
            return limited(seconds);
        }
        *left -= 1;
    }
    let path = parts.uri.path().strip_prefix("/client/v4/").unwrap_or_default();
    let path: Vec<&str> = path.split('/').collect();
    let query = parts.uri.query().unwrap_or_default();
    let token = parts.headers.get(header::AUTHORIZATION).map(|token| token.as_bytes().to_vec());
    let outcome = authorised(token.as_deref(), &path)
        .and_then(|()| route(&mut state, &parts.method, &path, query, &body));
    drop(state);
    let (status, body) = match outcome {
        Ok(body) => (200, body),
        Err(refused) => (refused.status, shapes::failure(&refused)),
    };
    let status = StatusCode::from_u16(status).expect("an HTTP status");
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn limited(seconds: u64) -> Response {
    let message = "More than 1200 requests per 300 seconds reached. Please wait and consider \
                   throttling your request speed";
    let body = shapes::failure(&Refused::new(429, 971, message)).to_string();
    Response::builder()
        .status(StatusCode::TOO_MANY_REQUESTS)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::RETRY_AFTER, seconds)
        .body(Body::from(body))
        .expect("an answer of fixed parts")
}

fn authorised(token: Option<&[u8]>, path: &[&str]) -> Result<(), Refused> {
    let Some(token) = token else {
        let message = "Missing X-Auth-Key, X-Auth-Email or Authorization headers";
        return Err(Refused::new(400, 9106, message));
    };
    let Some(token) = token.strip_prefix(b"Bearer ") else {
        let chain = Some((6111, "Invalid format for Authorization header".to_owned()));
        return Err(Refused { chain, ..Refused::new(400, 6003, "Invalid request headers") });
    };
    match (token == TOKEN.as_bytes(), path) {
        (true, _) => Ok(()),
        (false, ["user", ..]) => Err(Refused::new(401, 1000, "Invalid API Token")),
        (false, _) => Err(Refused::new(403, 9109, "Invalid access token")),
    }
}

fn route(state: &mut State, method: &Method, path: &[&str], query: &str, body: &[u8]) -> Answer {
    let may_edit = state.may_edit;
    match path {
        ["user", "tokens", "verify"] if method == Method::GET && state.token_of_user => {
            Ok(shapes::verified())
        }
        ["user", "tokens", "verify"] => Err(Refused::new(401, 1000, "Invalid API Token")),
        ["zones"] if method == Method::GET => {
            let name = parameter(query, "name");
            let named = state.zones.iter().filter(|zone| name.is_none_or(|name| zone.name == name));
            let found: Vec<Value> = named.map(|zone| shapes::zone(zone, may_edit)).collect();
            Ok(shapes::page(&found, 1, 20, found.len()))
        }
        ["zones", id, "dns_records", rest @ ..] => {
            let page_size = state.page_size;
            let Some(zone) = state.zones.iter_mut().find(|zone| zone.id == *id) else {
                return Err(no_route(path));
            };
            if method == Method::GET {
                return match rest {
                    [] => list(zone, query, page_size),
                    [id] => get(zone, id),
                    _ => Err(no_route(path)),
                };
            }
            if !may_edit {
                return Err(Refused::new(403, 10000, "Authentication error"));
            }
            write(zone, method, rest, body).unwrap_or_else(|| Err(no_route(path)))
        }
        _ => Err(no_route(path)),
    }
}

fn no_route(path: &[&str]) -> Refused {
    let message = format!(
        "Could not route to /client/v4/{}, perhaps your object identifier is invalid?",
        path.join("/")
    );
    Refused::new(404, 7003, &message)
}

fn get(zone: &Zone, id: &str) -> Answer {
    let found = zone.records.iter().find(|record| record.id == id);
    let found = found.ok_or_else(|| Refused::new(404, 81044, "Record does not exist."))?;
    Ok(shapes::success(&shapes::record(found)))
}

fn list(zone: &Zone, query: &str, page_size: usize) -> Answer {
    let name = parameter(query, "name.exact").or(parameter(query, "name"));
    let kind = parameter(query, "type");
    let number = |name: &str, default: usize| {
        parameter(query, name).and_then(|text| text.parse().ok()).unwrap_or(default).max(1)
    };
    let per_page = number("per_page", 100).min(page_size);
    let page = number("page", 1);
    let found: Vec<Value> = zone
        .records
        .iter()
        .filter(|record| name.is_none_or(|name| decoded(name) == record.name))
        .filter(|record| kind.is_none_or(|kind| kind == record.kind))
        .map(shapes::record)
        .collect();
    let total = found.len();
    let shown: Vec<Value> = found.into_iter().skip((page - 1) * per_page).take(per_page).collect();
    Ok(shapes::page(&shown, page, per_page, total))
}

/// Carries out a change; `None` where there is no such call.
fn write(zone: &mut Zone, method: &Method, rest: &[&str], body: &[u8]) -> Option<Answer> {
    let object = || serde_json::from_slice::<Map<String, Value>>(body).map_err(|_| unreadable());
    let mut draft = zone.records.clone();
    let written = match (method, rest) {
        (&Method::POST, ["batch"]) => {
            let done = object().and_then(|body| zone.batch(&body));
            return Some(done.map(|done| shapes::success(&shapes::batch(&done))));
        }
        (&Method::POST, []) => object().and_then(|body| zone.post(&mut draft, &body)),
        (&Method::PATCH, [id]) => object().and_then(|body| zone.patch(&mut draft, id, &body)),
        (&Method::PUT, [id]) => object().and_then(|body| zone.put(&mut draft, id, &body)),
        (&Method::DELETE, [id]) => {
            return Some(delete(&mut draft, id).map(|gone| {
                zone.commit(draft);
                shapes::success(&json!({ "id": gone.id }))
            }));
        }
        _ => return None,
    };
    Some(written.map(|record| {
        zone.commit(draft);
        shapes::success(&shapes::record(&record))
    }))
}

fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The text of a parameter that can be a name, `*` included.
fn decoded(text: &str) -> String {
    text.replace("%2A", "*").replace("%2a", "*")
}
