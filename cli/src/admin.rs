//! The local admin key: created once, stored in `rdev.json`.

use rdev_domain::audit::Actor;
use rdev_domain::key::Scope;
use rdev_domain::ports::Store;
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;

use crate::client::{ApiError, Client};

/// The key's name in the list of keys; rdev reserves it.
const NAME: &str = "local admin (rdev.json)";

/// Returns the key of `rdev.json` if the API at `url` still accepts it. Otherwise creates a new key
/// and revokes those of the same name: nobody has their text any more.
///
/// # Errors
/// When the store fails, or the API does not answer.
pub(crate) async fn key(
    store: &dyn Store,
    url: &str,
    earlier: Option<Secret>,
    now: Timestamp,
) -> anyhow::Result<Secret> {
    if let Some(earlier) = earlier
        && works(url, &earlier).await?
    {
        return Ok(earlier);
    }
    let by = Actor::maintenance();
    let old = store.keys().await?;
    let (text, key) = rdev_functions::http::key_text::generate(NAME, vec![Scope::Admin], now, None);
    store.create_key(&key, &by, now).await?;
    for key in old.iter().filter(|key| key.name == NAME && key.revoked_at.is_none()) {
        store.revoke_key(&key.id, &by, now).await?;
    }
    Ok(text)
}

async fn works(url: &str, key: &Secret) -> anyhow::Result<bool> {
    // A text that a header cannot hold is not a key.
    let Ok(client) = Client::new(url, key) else { return Ok(false) };
    let Err(error) = client.get("keys", &[("limit", "1".to_owned())]).await else {
        return Ok(true);
    };
    let refused = error.downcast_ref::<ApiError>().and_then(ApiError::status);
    if matches!(refused, Some(401 | 403)) { Ok(false) } else { Err(error) }
}
