//! Domains. The item of a name ensures that at most one project has it. An item in the project's
//! partition lists it there. Both are written and deleted in one transaction.

use rdev_domain::dns::{Domain, DomainName, DomainState};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortError, PortResult};

use super::audit;
use super::context::{Change, Context};
use super::item::{Values, body, get_text, item, text};
use super::projects::{self, MAX_RACES, StoredProject};
use super::table::{Query, pause};
use super::writes::Writes;
use crate::error;
use crate::schema::{Key, partition};

/// The item is this reservation of the name, and not an earlier or a later one.
const SAME: &str = "#id = :id AND #project = :project";

pub(super) async fn reserve(change: &Change<'_>, domain: &Domain) -> PortResult<Domain> {
    let domain = Domain { state: DomainState::Pending, ..domain.clone() };
    let (name, project) = (&domain.spec.domain, &domain.project_id);
    for race in 1..=MAX_RACES {
        let mut writes = change.context.table.writes();
        let of_it = [
            ("body", encoded(&domain)?),
            ("id", text(domain.id.to_string())),
            ("project", text(project.as_str())),
        ];
        let taken = writes.put_new(item(Key::domain(name), of_it));
        writes.put(item(Key::domain_of(project, name), []));
        let mut of_project = vec![(":deleting", text("deleting"))];
        let condition = if domain.project_nonce.is_nil() {
            "attribute_exists(#pk) AND #state <> :deleting"
        } else {
            of_project.push((":nonce", text(domain.project_nonce.to_string())));
            "attribute_exists(#pk) AND #state <> :deleting AND #lsk = :nonce"
        };
        let open = writes.check(Key::project(project), condition, of_project);
        record_change(change, &mut writes, "domain.reserved", &domain)?;
        let Err(cancelled) = change.context.table.transact(writes).await? else {
            return Ok(domain);
        };
        if cancelled.failed_at(open) {
            return Err(match cancelled.item(open) {
                Some(item) if get_text(item, "state") != Some("deleting") => {
                    Conflict::ProjectReplaced.into()
                }
                Some(_) => Conflict::ProjectNotReady.into(),
                None => projects::not_found(project),
            });
        }
        if let Some(there) = cancelled.item(taken) {
            let there: Domain = body(there)?;
            let of_earlier = !there.project_nonce.is_nil()
                && !domain.project_nonce.is_nil()
                && there.project_nonce != domain.project_nonce;
            if there.project_id != *project || of_earlier {
                return Err(Conflict::DomainTaken.into());
            }
            return Ok(there);
        }
        pause(race).await;
    }
    Err(Conflict::Contended.into())
}

pub(super) async fn update(change: &Change<'_>, domain: &Domain) -> PortResult<Domain> {
    let domain = Domain { updated_at: change.now, ..domain.clone() };
    let mut writes = change.context.table.writes();
    let mut with = same(&domain);
    with.push((":body", encoded(&domain)?));
    writes.update(Key::domain(&domain.spec.domain), "SET #body = :body", SAME, with);
    record_change(change, &mut writes, "domain.updated", &domain)?;
    match change.context.table.transact(writes).await? {
        Ok(()) => Ok(domain),
        Err(_) => Err(not_found(&domain.spec.domain)),
    }
}

pub(super) async fn forget(change: &Change<'_>, domain: &Domain) -> PortResult<()> {
    let name = &domain.spec.domain;
    let mut writes = change.context.table.writes();
    writes.delete(Key::domain(name), SAME, same(domain));
    writes.delete(Key::domain_of(&domain.project_id, name), "", vec![]);
    record_change(change, &mut writes, "domain.removed", domain)?;
    // If the condition does not hold, the reservation is gone.
    change.context.table.transact(writes).await.map(drop)
}

/// Removes all domains of a project. The project must be closed, so that none is added.
pub(super) async fn forget_all(change: &Change<'_>, project: &ProjectId) -> PortResult<()> {
    for domain in list(change.context, project).await? {
        forget(change, &domain).await?;
    }
    Ok(())
}

fn same(domain: &Domain) -> Values {
    vec![(":id", text(domain.id.to_string())), (":project", text(domain.project_id.as_str()))]
}

fn encoded(domain: &Domain) -> PortResult<aws_sdk_dynamodb::types::AttributeValue> {
    Ok(text(serde_json::to_string(domain).map_err(error::defect)?))
}

fn record_change(
    change: &Change<'_>,
    writes: &mut Writes,
    action: &str,
    domain: &Domain,
) -> PortResult<()> {
    let event = change.context.next_id(change.now);
    let subject = format!("domain/{}", domain.spec.domain);
    writes.put(audit::event(change, event, action, subject, Some(&domain.project_id))?);
    Ok(())
}

fn not_found(name: &DomainName) -> PortError {
    PortError::not_found(format!("domain \"{name}\""))
}

pub(super) async fn get(context: &Context, name: &DomainName) -> PortResult<Domain> {
    body(&context.table.get(Key::domain(name)).await?.ok_or_else(|| not_found(name))?)
}

pub(super) async fn list(context: &Context, project: &ProjectId) -> PortResult<Vec<Domain>> {
    let query = Query {
        keys: "#pk = :pk AND begins_with(#sk, :prefix)",
        with: vec![(":pk", text(partition(project))), (":prefix", text("D#"))],
        ..Query::default()
    };
    let found = context.table.query_all(query).await?;
    let name = |sk: &str| sk.strip_prefix("D#")?.parse::<DomainName>().ok();
    let names = found.iter().filter_map(|item| get_text(item, "sk").and_then(name));
    let items = context.table.get_all(names.map(|name| Key::domain(&name)).collect()).await?;
    let mut domains: Vec<Domain> = items.iter().map(body).collect::<PortResult<_>>()?;
    if domains.is_empty() {
        return Ok(domains);
    }
    let owner = context.table.get(Key::project(project)).await?;
    let owner = owner.as_ref().map(StoredProject::of).transpose()?.map(|stored| stored.project);
    // Between the two reads a name may have moved to another project.
    domains.retain(|domain| {
        domain.project_id == *project
            && owner.as_ref().is_none_or(|owner| owner.owns(domain.project_nonce, domain.id))
    });
    domains.sort_by_key(|domain| std::cmp::Reverse(domain.id));
    Ok(domains)
}
