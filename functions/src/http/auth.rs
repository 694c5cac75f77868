//! Authentication and authorisation: keys, scopes, and the rate limit per key.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use axum::extract::ConnectInfo;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use http::header::AUTHORIZATION;
use http::{Extensions, HeaderMap, Method};
use rdev_domain::audit::{Actor, Who};
use rdev_domain::ids::KeyId;
use rdev_domain::key::{ApiKey, Scope};
use rdev_domain::ports::PortError;
use subtle::ConstantTimeEq;
use utoipa::openapi::OpenApi;

use crate::app::App;
use crate::http::key_text::KeyText;
use crate::http::openapi;
use crate::http::problem::{ApiResult, Code, Problem};
use crate::settings::Settings;

/// Requests per key.
pub(crate) type Limiter = DefaultKeyedRateLimiter<KeyId>;

/// The key a request came with, and the request's id.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: Arc<ApiKey>,
    pub(crate) request_id: String,
}

impl Caller {
    /// Who the audit names.
    pub(crate) fn actor(&self) -> Actor {
        Actor { who: Who::Key(self.key.id.clone()), request_id: Some(self.request_id.clone()) }
    }
}

/// What a caller of an operation needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Access {
    /// Nothing.
    Public,
    /// A key with all of these scopes.
    Key(Vec<Scope>),
    /// The same, but callers on this machine need no key.
    KeyUnlessLoopback(Vec<Scope>),
}

/// What callers of each operation need, by method and path.
#[derive(Debug, Clone)]
pub(crate) struct AccessTable(HashMap<(Method, String), Access>);

impl AccessTable {
    /// Reads it from the `security` of the operations, so that what is
    /// documented and what is enforced cannot differ.
    ///
    /// # Panics
    /// When an operation declares nothing, or a scope that does not exist:
    /// a defect that every start and every test finds.
    pub(crate) fn of(document: &OpenApi) -> Self {
        let mut table = HashMap::new();
        for (method, path, operation) in openapi::operations(document) {
            let access =
                access(operation).unwrap_or_else(|| panic!("{method} {path} needs a `security`"));
            let method = method.parse().expect("a method's name");
            table.insert((method, path.to_owned()), access);
        }
        Self(table)
    }

    /// What callers of `method` on the route `path` need; `None` without such an operation.
    pub(crate) fn get(&self, method: &Method, path: &str) -> Option<&Access> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.0.get(&(method.clone(), path.to_owned()))
    }
}

fn access(operation: &utoipa::openapi::path::Operation) -> Option<Access> {
    let declared = serde_json::to_value(operation.security.as_ref()?).ok()?;
    let alternatives = declared.as_array()?;
    let keys: Vec<_> = alternatives.iter().filter_map(|one| one.get("key")).collect();
    let anonymous = alternatives.iter().any(|one| one.as_object().is_some_and(|o| o.is_empty()));
    match (keys.as_slice(), anonymous) {
        ([], true) => Some(Access::Public),
        ([scopes], anonymous) => {
            let scopes: Vec<Scope> = serde_json::from_value((*scopes).clone()).ok()?;
            Some(if anonymous { Access::KeyUnlessLoopback(scopes) } else { Access::Key(scopes) })
        }
        _ => None,
    }
}

/// Admits a request: its caller, when the operation needs a key.
pub(crate) async fn admit(
    app: &App,
    limiter: Option<&Limiter>,
    access: &Access,
    headers: &HeaderMap,
    extensions: &Extensions,
    request_id: &str,
) -> ApiResult<Option<Caller>> {
    let scopes = match access {
        Access::Public => return Ok(None),
        Access::KeyUnlessLoopback(_) if from_loopback(headers, extensions) => return Ok(None),
        Access::Key(scopes) | Access::KeyUnlessLoopback(scopes) => scopes,
    };
    let key = authenticate(app, headers).await?;
    limit(limiter, &key.id)?;
    if let Some(missing) = scopes.iter().find(|scope| !key.allows(**scope)) {
        let detail = format!("the key lacks the scope {missing}");
        return Err(Problem::new(Code::MissingScope, detail));
    }
    Ok(Some(Caller { key: Arc::new(key), request_id: request_id.to_owned() }))
}

/// The limiter that the settings describe.
pub(crate) fn limiter(settings: &Settings) -> Option<Limiter> {
    let per_second = NonZeroU32::new(settings.rate_limit_per_s)?;
    let burst = NonZeroU32::new(settings.rate_limit_burst).unwrap_or(NonZeroU32::MIN);
    Some(RateLimiter::keyed(Quota::per_second(per_second).allow_burst(burst)))
}

/// Every refusal is the same, so that it does not reveal which keys exist.
async fn authenticate(app: &App, headers: &HeaderMap) -> ApiResult<ApiKey> {
    let text = bearer(headers).and_then(KeyText::read).ok_or_else(Problem::unauthorized)?;
    let key = match app.store().key(&text.id).await {
        Ok(key) => key,
        Err(PortError::NotFound { .. }) => return Err(Problem::unauthorized()),
        Err(error) => return Err(error.into()),
    };
    let same = text.secret_sha256().as_bytes().ct_eq(key.secret_sha256.as_bytes());
    if bool::from(same) && key.revoked_at.is_none() {
        Ok(key)
    } else {
        Err(Problem::unauthorized())
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

fn limit(limiter: Option<&Limiter>, key: &KeyId) -> ApiResult<()> {
    let Some(limiter) = limiter else { return Ok(()) };
    limiter.check_key(key).map_err(|until| {
        let wait = until.wait_time_from(DefaultClock::default().now());
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Problem::new(Code::RateLimited, "the key makes too many requests; see Retry-After")
            .retry_after(seconds.max(1))
    })
}

/// Whether the request comes from this machine itself, and not through a proxy on it for
/// somebody else.
fn from_loopback(headers: &HeaderMap, extensions: &Extensions) -> bool {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>();
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"];
    peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback())
        && !forwarded.iter().any(|name| headers.contains_key(*name))
}
