//! Calls of the API, and how it answers: errors, pages.

use axum::http::header::{CONTENT_TYPE, ETAG, HeaderName, LINK};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde_json::{Value, json};

use super::records::Repository;
use super::state::State;
use super::{Shared, locked};

/// A request to the API.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) method: String,
    /// The decoded parts of its path below `/api/v1`.
    pub(super) path: Vec<String>,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Value,
    /// Whose token it had.
    pub(super) user: Option<String>,
}

#[derive(Debug)]
pub(super) struct ApiResponse {
    pub(super) status: u16,
    pub(super) body: Body,
    headers: Vec<(HeaderName, String)>,
}

#[derive(Debug)]
pub(super) enum Body {
    None,
    Json(Value),
    Plain(String),
}

impl Call {
    /// A value of the query.
    pub(super) fn query(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// A text of the body; empty when it is not there.
    pub(super) fn text(&self, name: &str) -> Result<String, ApiResponse> {
        match self.body.get(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(error(422, format!("[]: json: cannot unmarshal {name}"))),
        }
    }

    /// A text of the body that must be there.
    pub(super) fn required(&self, name: &str) -> Result<String, ApiResponse> {
        let text = self.text(name)?;
        if !text.is_empty() {
            return Ok(text);
        }
        // It says the name of its own field.
        let mut letters = name.chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let name: String = first.into_iter().chain(letters).collect();
        Err(error(422, format!("[{name}]: Required")))
    }

    /// The texts of a list in the body; `None` when it is not there.
    pub(super) fn texts(&self, name: &str) -> Option<Vec<String>> {
        let items = self.body.get(name)?.as_array()?;
        Some(items.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    }

    /// A flag of the body.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.body.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    /// Who asks; an error without a token.
    pub(super) fn user(&self) -> Result<&str, ApiResponse> {
        self.user.as_deref().ok_or_else(|| error(401, "token is required"))
    }
}

impl ApiResponse {
    pub(super) fn new(status: u16, body: Body) -> Self {
        Self { status, body, headers: Vec::new() }
    }

    /// Adds to an error where the API is described: its URL is that, and not of what went wrong.
    pub(super) fn with_description(mut self, root_url: &str) -> Self {
        if let (400.., Body::Json(Value::Object(body))) = (self.status, &mut self.body) {
            body.insert("url".to_owned(), json!(format!("{root_url}/api/swagger")));
        }
        self
    }

    pub(super) fn header(mut self, name: HeaderName, value: String) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for ApiResponse {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).expect("an HTTP status");
        let kind = match self.body {
            Body::None => "",
            Body::Json(_) => "application/json;charset=utf-8",
            Body::Plain(_) => "text/plain; charset=utf-8",
        };
        let text = match self.body {
            Body::None => String::new(),
            Body::Json(value) => format!("{value}\n"),
            Body::Plain(text) => text,
        };
        let mut response = (status, AppendHeaders(self.headers), text).into_response();
        response.headers_mut().remove(CONTENT_TYPE);
        if !kind.is_empty() {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        }
        response
    }
}

pub(super) fn ok(body: Value) -> ApiResponse {
    ApiResponse::new(200, Body::Json(body))
}

pub(super) fn created(body: Value) -> ApiResponse {
    ApiResponse::new(201, Body::Json(body))
}

pub(super) fn no_content() -> ApiResponse {
    ApiResponse::new(204, Body::None)
}

/// An answer without a body.
pub(super) fn empty() -> ApiResponse {
    ApiResponse::new(200, Body::None)
}

/// A file as it is.
pub(super) fn raw(blob: &str, content: &[u8]) -> ApiResponse {
    let answer = ApiResponse::new(200, Body::Plain(String::from_utf8_lossy(content).into_owned()));
    answer.header(ETAG, format!("\"{blob}\""))
}

pub(super) fn error(status: u16, message: impl Into<String>) -> ApiResponse {
    ApiResponse::new(status, Body::Json(json!({ "message": message.into() })))
}

/// The API's own "not there".
pub(super) fn not_found() -> ApiResponse {
    let body = json!({ "errors": null, "message": "not found" });
    ApiResponse::new(404, Body::Json(body))
}

/// The same, in the words of the part that did not find it.
pub(super) fn not_found_by(part: &str, why: impl Into<String>) -> ApiResponse {
    let body = json!({ "errors": [why.into()], "message": part });
    ApiResponse::new(404, Body::Json(body))
}

pub(super) fn no_organisation(name: &str) -> ApiResponse {
    not_found_by("GetOrgByName", format!("user redirect does not exist [name: {name}]"))
}

/// What went wrong inside. Its message is for the server's log only.
pub(super) fn internal(shared: &Shared, why: &str) -> ApiResponse {
    use std::io::Write;
    // It fails only when standard error is closed.
    let _ = writeln!(std::io::stderr(), "Gitea at {}: {why}", shared.url);
    error(500, "")
}

/// A path outside of the API.
pub(super) fn no_route() -> ApiResponse {
    ApiResponse::new(404, Body::Plain("404 page not found\n".to_owned()))
}

/// A page of a list.
pub(super) fn page(state: &State, call: &Call, path: &str, items: Vec<Value>) -> ApiResponse {
    let number = |name: &str| call.query(name).and_then(|text| text.parse::<usize>().ok());
    let limit = number("limit").filter(|limit| *limit > 0).unwrap_or(30).min(state.page);
    let (at, total) = (number("page").unwrap_or(1).max(1), items.len());
    let last = total.div_ceil(limit).max(1);
    let items: Vec<Value> = items.into_iter().skip((at - 1) * limit).take(limit).collect();
    let url = |page: usize| format!("<{}/api/v1/{path}?limit={limit}&page={page}>", state.root_url);
    let mut links = Vec::new();
    // Behind the last page it counts as there.
    let at = at.min(last);
    if at < last {
        links.push(format!("{}; rel=\"next\"", url(at + 1)));
        links.push(format!("{}; rel=\"last\"", url(last)));
    }
    if at > 1 {
        links.push(format!("{}; rel=\"first\"", url(1)));
        links.push(format!("{}; rel=\"prev\"", url(at - 1)));
    }
    let answer = ok(Value::Array(items));
    let answer = answer.header(HeaderName::from_static("x-total-count"), total.to_string());
    if links.is_empty() { answer } else { answer.header(LINK, links.join(",")) }
}

/// A repository that the caller may see.
pub(super) fn visible(
    state: &State,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<Repository, ApiResponse> {
    let found = state.find(owner, name).ok_or_else(not_found)?;
    match state.access(call.user.as_deref(), found) {
        "none" => Err(not_found()),
        _ => Ok(found.clone()),
    }
}

/// A repository that the caller may change.
pub(super) fn writable(
    state: &State,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<Repository, ApiResponse> {
    let found = visible(state, call, owner, name)?;
    let user = call.user()?;
    if matches!(state.access(Some(user), &found), "owner" | "admin" | "write") {
        Ok(found)
    } else {
        Err(error(403, "user should have a permission to write to the target repository"))
    }
}

/// One whose content the caller may change now.
pub(super) fn changeable(
    state: &State,
    call: &Call,
    owner: &str,
    name: &str,
) -> Result<Repository, ApiResponse> {
    let found = writable(state, call, owner, name)?;
    if found.archived.is_some() {
        return Err(error(423, format!("{} is archived", found.full_name())));
    }
    Ok(found)
}

/// What a browser would get: HTML for what is there, one line of plain text for the rest.
pub(super) fn page_of(title: &str) -> Response {
    let html = format!("<!DOCTYPE html>\n<title>{title}</title>\n<p>Forge\n");
    axum::response::Html(html).into_response()
}

pub(super) fn web(shared: &Shared, path: &str) -> Response {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let state = locked(&shared.state);
    match parts.as_slice() {
        [] => page_of("Forge"),
        [owner] if state.owner(owner).is_some() => page_of(owner),
        [owner, name, ..] if state.find(owner, name).is_some_and(|found| !found.private) => {
            page_of(name)
        }
        _ => ApiResponse::new(404, Body::Plain("Not found.\n".to_owned())).into_response(),
    }
}
