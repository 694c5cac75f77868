//! API keys: create (shown once), list, revoke.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use rdev_domain::ids::KeyId;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::{Conflict, PortError};
use rdev_domain::spec::FieldError;
use rdev_domain::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::clock;
use crate::http::auth::Caller;
use crate::http::cursor::{List, Listing, PageQuery};
use crate::http::extract::{InPath, InQuery, JsonBody};
use crate::http::idempotency::{IdempotentRequest, ReplayInstead};
use crate::http::key_text::{generate, key_id};
use crate::http::problem::{ApiResult, Code, Problem};

/// `/keys…`.
pub fn router() -> OpenApiRouter<App> {
    OpenApiRouter::default().routes(routes!(list, create)).routes(routes!(revoke))
}

/// A key to create.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateKey {
    /// Its name for people, 1 to 100 characters.
    pub name: String,
    /// What it allows; one scope or more.
    pub scopes: Vec<Scope>,
}

/// A key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyView {
    /// Its public part, which is in its text.
    pub id: KeyId,
    /// Its name for people.
    pub name: String,
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was revoked.
    pub revoked_at: Option<Timestamp>,
}

/// A new key with its text, which is shown this once.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct NewKey {
    /// What to send as `Authorization: Bearer …`. Nobody can show it again.
    #[schema(pattern = "^rdev_[a-z0-9]{12}[a-z2-7]{60}$")]
    pub key: String,
    /// The same key as it is listed.
    #[serde(flatten)]
    pub record: KeyView,
}

/// Creates a key. A repeat with the same `Idempotency-Key` does not show it again.
#[utoipa::path(
    post, path = "/keys", tag = "keys", operation_id = "create_key",
    security(("key" = ["admin"])),
    request_body = CreateKey,
    responses((status = 201, description = "The key, shown this once", body = NewKey))
)]
async fn create(
    State(app): State<App>,
    caller: Caller,
    request: IdempotentRequest,
    JsonBody(body): JsonBody<CreateKey>,
) -> ApiResult<Response> {
    let name = body.name.trim();
    let mut errors = Vec::new();
    if !(1..=100).contains(&name.chars().count()) || name.contains(char::is_control) {
        errors.push(FieldError {
            field: "name".to_owned(),
            message: "must have 1 to 100 characters and no control characters".to_owned(),
        });
    }
    if body.scopes.is_empty() {
        errors.push(FieldError {
            field: "scopes".to_owned(),
            message: "must have one scope or more".to_owned(),
        });
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    let mut scopes = body.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    let now = clock::now();
    // The request determines the id but not the secret, so a repeated request finds the key.
    let id = key_id(&request.derived("key").to_bytes()[8..]);
    let (text, key) = generate(name, scopes, now, Some(id));
    match app.store().create_key(&key, &caller.actor(), now).await {
        Ok(()) => {}
        Err(PortError::Conflict(Conflict::IdTaken)) if request.resumed => {
            return Err(already_shown(&key.id));
        }
        Err(error) => return Err(error.into()),
    }
    let instead = ReplayInstead(already_shown(&key.id));
    let new = NewKey { key: text.expose().to_owned(), record: key.into() };
    let mut response = (StatusCode::CREATED, Json(new)).into_response();
    response.extensions_mut().insert(instead);
    Ok(response)
}

/// Keys, newest first, revoked ones too.
#[utoipa::path(
    get, path = "/keys", tag = "keys", operation_id = "list_keys",
    security(("key" = ["admin"])),
    params(PageQuery),
    responses((status = 200, description = "A page", body = List<KeyView>))
)]
async fn list(
    State(app): State<App>,
    InQuery(query): InQuery<PageQuery>,
) -> ApiResult<Json<List<KeyView>>> {
    let listing = Listing::new("keys", &[], query.limit, query.cursor.as_deref())?;
    let mut keys = app.store().keys().await?;
    // Newest first: the later a key was created, the smaller its place in the list.
    let place =
        |at: Timestamp, id: &KeyId| format!("{:019}-{id}", i64::MAX - at.as_millis().max(0));
    keys.sort_by_cached_key(|key| place(key.created_at, &key.id));
    let keys = keys.into_iter().map(KeyView::from).collect();
    Ok(Json(listing.cut(keys, |key: &KeyView| place(key.created_at, &key.id))))
}

/// Revokes a key, at once and for good.
#[utoipa::path(
    delete, path = "/keys/{id}", tag = "keys", operation_id = "revoke_key",
    security(("key" = ["admin"])),
    params(("id" = KeyId, Path, description = "The key")),
    responses((status = 204, description = "Revoked"))
)]
async fn revoke(
    State(app): State<App>,
    InPath(id): InPath<KeyId>,
    caller: Caller,
) -> ApiResult<StatusCode> {
    app.store().revoke_key(&id, &caller.actor(), clock::now()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn already_shown(id: &KeyId) -> Problem {
    let detail = format!("the key {id} was created and shown once; revoke it and create another");
    Problem::new(Code::KeyAlreadyShown, detail)
}

impl From<ApiKey> for KeyView {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            scopes: key.scopes,
            created_at: key.created_at,
            revoked_at: key.revoked_at,
        }
    }
}
