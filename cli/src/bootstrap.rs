//! `rdev key bootstrap`: the first key of an AWS stack, which the API cannot create.

use rdev_domain::audit::Actor;
use rdev_domain::ports::Store as _;
use rdev_domain::retention::Retention;
use rdev_domain::time::Timestamp;
use serde_json::json;

use crate::args::key::Bootstrap;
use crate::exit::Exit;
use crate::out;

/// Writes the key with the AWS permissions of the caller, and prints it.
pub(crate) async fn run(bootstrap: Bootstrap, json: bool) -> anyhow::Result<Exit> {
    let Bootstrap { stack, table, name, scopes } = bootstrap;
    let sdk = rdev_aws::config::load().await;
    let table = match (table, stack) {
        (Some(table), _) => table,
        (None, stack) => rdev_aws::stack::table(&sdk, &stack.unwrap_or_default()).await?,
    };
    let store = rdev_aws::stack::store(&sdk, table.clone(), Retention::default());
    let now = Timestamp::from(std::time::SystemTime::now());
    let (text, key) = rdev_functions::http::key_text::generate(&name, scopes, now, None);
    if let Err(error) = store.create_key(&key, &Actor::maintenance(), now).await {
        let transient = error.is_transient();
        let error =
            anyhow::Error::new(error).context(format!("cannot write a key into the table {table}"));
        if transient {
            return Err(error);
        }
        // The table is missing, not ours, or denied: a person has to change something.
        out::note(format_args!("error: {error:#}"));
        return Ok(Exit::Config);
    }
    if json {
        out::json(&json!({
            "id": key.id, "name": key.name, "scopes": key.scopes,
            "table": table, "key": text.expose(),
        }))?;
    } else {
        out::new_key_note(key.id.as_str());
        out::line(text.expose())?;
    }
    Ok(Exit::Done)
}
