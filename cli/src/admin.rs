//! The local admin key: made once, kept in `rdev.json`.

use rdev_domain::audit::Actor;
use rdev_domain::key::Scope;
use rdev_domain::ports::Store;
use rdev_domain::secret::Secret;
use rdev_domain::time::Timestamp;

use crate::client::{ApiError, Client};
use crate::exit::Exit;

/// What the key is called in the list of keys. The name is rdev's own.
const NAME: &str = "local admin (rdev.json)";

/// The key of `rdev.json` if the API at `url` still takes it; otherwise a new
/// one, and those of the same name are revoked: nobody has their text any more.
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
    // A text that no header can hold is no key.
    let Ok(client) = Client::new(url, key) else { return Ok(false) };
    match client.get("keys", &[("limit", "1".to_owned())]).await {
        Ok(_) => Ok(true),
        Err(error) => match error.downcast_ref::<ApiError>() {
            Some(refused) if refused.exit() == Exit::NotAllowed => Ok(false),
            _ => Err(error),
        },
    }
}
