//! When repositories are looked through for refs that nobody needs. All plans are in the index of
//! due records.

use futures_util::future::try_join_all;
use rdev_domain::git_url::GitUrl;
use rdev_domain::ports::{Conflict, PortResult};
use rdev_domain::ref_look::RefLook;
use rdev_domain::time::Timestamp;
use ulid::Ulid;

use super::context::Context;
use super::item::{Item, add_to_due, body, get_text, item, key_of, text};
use super::table::Query;
use crate::error::{self, alone};
use crate::schema::{DUE, DUE_SHARDS, Key, sortable};

/// How many others may change a plan meanwhile.
const MAX_TRIES: u32 = 8;

pub(super) async fn plan(
    context: &Context,
    repository: &GitUrl,
    at: Timestamp,
    now: Timestamp,
) -> PortResult<()> {
    for _ in 0..MAX_TRIES {
        let there = context.table.get(Key::ref_look(repository)).await?;
        // One that cannot be read is as good as none.
        let before = there.as_ref().and_then(|item| body::<RefLook>(item).ok());
        let after = RefLook::planned(before, repository, at, now);
        if replace(context, there.as_ref(), &after).await? {
            return Ok(());
        }
    }
    Err(Conflict::Contended.into())
}

pub(super) async fn due(context: &Context, now: Timestamp, limit: u32) -> PortResult<Vec<RefLook>> {
    let until = format!("{}~", sortable(now));
    let shards = (0..DUE_SHARDS).map(|shard| {
        context.table.query(Query {
            index: Some(DUE.0),
            keys: "#dpk = :part AND #dsk <= :until",
            with: vec![(":part", text(part(shard))), (":until", text(until.as_str()))],
            limit: Some(limit),
            ..Query::default()
        })
    });
    let found = try_join_all(shards).await?;
    let mut found: Vec<_> = found.into_iter().flat_map(|found| found.items).collect();
    found.sort_by(|a, b| get_text(a, DUE.2).cmp(&get_text(b, DUE.2)));
    found.truncate(limit as usize);
    let items = context.table.get_all(found.iter().map(key_of).collect()).await?;
    let mut looks: Vec<RefLook> = Vec::with_capacity(items.len());
    for item in &items {
        let key = key_of(item);
        match alone(&key, body(item))? {
            Some(look) => looks.push(look),
            // It is not to stand before the others. The next fetch plans anew.
            None => context.table.delete_all(vec![key]).await?,
        }
    }
    // The index may not have the newest state of a plan.
    looks.retain(|look| look.due <= now);
    looks.sort_by(|a, b| (a.due, a.repository.as_str()).cmp(&(b.due, b.repository.as_str())));
    Ok(looks)
}

pub(super) async fn update(
    context: &Context,
    before: &RefLook,
    after: Option<&RefLook>,
) -> PortResult<bool> {
    let key = Key::ref_look(&before.repository);
    let Some(there) = context.table.get(key.clone()).await? else { return Ok(false) };
    if body::<RefLook>(&there).ok().as_ref() != Some(before) {
        return Ok(false);
    }
    if let Some(after) = after {
        return replace(context, Some(&there), after).await;
    }
    let seen = get_text(&there, "nonce").unwrap_or_default();
    let mut writes = context.table.writes();
    writes.delete(key, "#nonce = :seen", vec![(":seen", text(seen))]);
    Ok(context.table.transact(writes).await?.is_ok())
}

/// Writes a plan if the item is still as it was read; whether it was.
async fn replace(context: &Context, there: Option<&Item>, after: &RefLook) -> PortResult<bool> {
    let nonce = Ulid::generate().to_string();
    let encoded = serde_json::to_string(after).map_err(error::defect)?;
    let of_it = [("body", text(encoded)), ("nonce", text(nonce.as_str()))];
    let mut record = item(Key::ref_look(&after.repository), of_it);
    add_to_due(&mut record, part(shard(&after.repository)), sortable(after.due));
    let seen = there.map(|item| get_text(item, "nonce").unwrap_or_default());
    let (condition, with) = match seen {
        Some(seen) => ("#nonce = :seen", vec![(":seen", text(seen))]),
        None => ("attribute_not_exists(#pk)", vec![]),
    };
    Ok(match context.table.put_if(record, condition, with).await? {
        Ok(()) => true,
        // After a lost answer, the condition fails because this very write has been applied.
        Err(there) => {
            let there = there.as_ref().and_then(|item| get_text(item, "nonce"));
            there == Some(nonce.as_str())
        }
    })
}

/// A part of the index of due records.
fn part(shard: u128) -> String {
    format!("G#{shard}")
}

fn shard(repository: &GitUrl) -> u128 {
    repository.as_str().bytes().fold(0_u128, |sum, byte| sum + u128::from(byte)) % DUE_SHARDS
}
