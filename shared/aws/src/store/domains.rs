//! Domains. A name's own item makes that nobody has it twice; one in the project's partition
//! lists it there. Both come and go in one transaction.

use rdev_domain::dns::{Domain, DomainName, DomainState};
use rdev_domain::ids::ProjectId;
use rdev_domain::ports::{Conflict, PortError, PortResult};

use super::calls::{Query, pause};
use super::item::{Values, body, get_text, item, text};
use super::projects::{self, RACES};
use super::writes::Writes;
use super::{Change, DynamoStore, audit};
use crate::error;
use crate::schema::{Key, partition};

/// Whether an item is this reservation of the name, and not an earlier or a later one.
const SAME: &str = "#id = :id AND #project = :project";

pub(super) async fn reserve(change: &Change<'_>, domain: &Domain) -> PortResult<Domain> {
    let domain = Domain { state: DomainState::Pending, ..domain.clone() };
    let (name, project) = (&domain.spec.domain, &domain.project_id);
    for race in 1..=RACES {
        let mut writes = Writes::new(&change.store.table);
        let of_it = [
            ("body", encoded(&domain)?),
            ("id", text(domain.id.to_string())),
            ("project", text(project.as_str())),
        ];
        let taken = writes.put_new(item(Key::domain(name), of_it));
        writes.put(item(Key::domain_of(project, name), []));
        let open = writes.check(
            Key::project(project),
            "attribute_exists(#pk) AND #state <> :deleting",
            vec![(":deleting", text("deleting"))],
        );
        record_change(change, &mut writes, "domain.reserved", &domain)?;
        let Err(lost) = change.store.transact(writes).await? else { return Ok(domain) };
        if lost.at(open) {
            return Err(match lost.item(open) {
                Some(_) => Conflict::ProjectNotReady.into(),
                None => projects::not_found(project),
            });
        }
        if let Some(there) = lost.item(taken) {
            let there: Domain = body(there)?;
            if there.project_id != *project {
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
    let mut writes = Writes::new(&change.store.table);
    let mut with = same(&domain);
    with.push((":body", encoded(&domain)?));
    writes.update(Key::domain(&domain.spec.domain), "SET #body = :body", SAME, with);
    record_change(change, &mut writes, "domain.updated", &domain)?;
    match change.store.transact(writes).await? {
        Ok(()) => Ok(domain),
        Err(_) => Err(not_found(&domain.spec.domain)),
    }
}

pub(super) async fn forget(change: &Change<'_>, domain: &Domain) -> PortResult<()> {
    let name = &domain.spec.domain;
    let mut writes = Writes::new(&change.store.table);
    writes.delete(Key::domain(name), SAME, same(domain));
    writes.delete(Key::domain_of(&domain.project_id, name), "", vec![]);
    record_change(change, &mut writes, "domain.removed", domain)?;
    // Where the condition does not hold, it is not there any more.
    change.store.transact(writes).await.map(drop)
}

/// Removes every domain that a project still has. It must be closed: then none is added.
pub(super) async fn forget_all(change: &Change<'_>, project: &ProjectId) -> PortResult<()> {
    for domain in change.store.list_domains(project).await? {
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
    let event = change.store.next_id(change.now);
    let subject = format!("domain/{}", domain.spec.domain);
    writes.put(audit::event(change, event, action, subject, Some(&domain.project_id))?);
    Ok(())
}

fn not_found(name: &DomainName) -> PortError {
    PortError::not_found(format!("domain \"{name}\""))
}

impl DynamoStore {
    pub(super) async fn read_domain(&self, name: &DomainName) -> PortResult<Domain> {
        body(&self.get(Key::domain(name)).await?.ok_or_else(|| not_found(name))?)
    }

    pub(super) async fn list_domains(&self, project: &ProjectId) -> PortResult<Vec<Domain>> {
        let query = || Query {
            keys: "#pk = :pk AND begins_with(#sk, :prefix)",
            with: vec![(":pk", text(partition(project))), (":prefix", text("D#"))],
            ..Query::default()
        };
        let found = self.query_all(query).await?;
        let name = |sk: &str| sk.strip_prefix("D#")?.parse::<DomainName>().ok();
        let names = found.iter().filter_map(|item| get_text(item, "sk").and_then(name));
        let items = self.get_all(names.map(|name| Key::domain(&name)).collect()).await?;
        let mut domains: Vec<Domain> = items.iter().map(body).collect::<PortResult<_>>()?;
        // Between the two reads a name may have come to another project.
        domains.retain(|domain| domain.project_id == *project);
        domains.sort_by_key(|domain| std::cmp::Reverse(domain.id));
        Ok(domains)
    }
}
