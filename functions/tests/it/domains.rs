//! How many domains a project may have. What a provider does is tested with real ones, in
//! `cli/tests/platform`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use rdev_domain::dns::{DnsDefaults, Domain, DomainName, DomainSpec, Target, Ttl};
use rdev_domain::ports::{Dns, DnsRecord, PortResult};
use serde_json::json;
use ulid::Ulid;

use crate::support::{Fixture, now};

/// A zone in memory, which accepts every record.
#[derive(Default)]
struct Zone(Mutex<BTreeMap<String, DnsRecord>>);

#[async_trait]
impl Dns for Zone {
    async fn put(&self, spec: &DomainSpec, tag: &str) -> PortResult<String> {
        let id = spec.domain.to_string();
        let record = DnsRecord {
            id: id.clone(),
            kind: Some(spec.target.kind()),
            content: spec.target.content(),
            ttl: 300,
            proxied: spec.proxied,
            ownership_tag: Some(tag.to_owned()),
        };
        self.0.lock().expect("not poisoned").insert(id.clone(), record);
        Ok(id)
    }

    async fn records(&self, name: &DomainName) -> PortResult<Vec<DnsRecord>> {
        let records = self.0.lock().expect("not poisoned");
        Ok(records.get(&name.to_string()).cloned().into_iter().collect())
    }

    async fn delete(&self, name: &DomainName, _: Option<&str>, _: &str) -> PortResult<()> {
        self.0.lock().expect("not poisoned").remove(&name.to_string());
        Ok(())
    }
}

#[tokio::test]
async fn a_project_has_at_most_100_domains() {
    let defaults = DnsDefaults {
        zone: "example.com".parse().expect("a zone"),
        target: Some(Target::A("203.0.113.7".parse().expect("an address"))),
        proxied: false,
        ttl: Ttl::try_from(300).expect("a time"),
        allow_private: false,
    };
    let zone = Arc::new(Zone::default());
    let fixture = Fixture::with(|context| {
        context.dns = Some(zone.clone());
        context.settings.dns = Some(defaults.clone());
    })
    .await;
    let project = fixture.project("site").await;
    let project = fixture.store().project(&project).await.expect("it is there");
    let by = rdev_domain::audit::Actor::maintenance();
    for n in 0..99 {
        let spec = DomainSpec {
            domain: DomainName::in_zone(&format!("d{n}"), &defaults.zone).expect("a name"),
            target: defaults.target.clone().expect("a target"),
            proxied: false,
            ttl: defaults.ttl,
        };
        let domain = Domain::new(&project, spec, Ulid::generate(), now());
        fixture.store().reserve_domain(&domain, &by, now()).await.expect("reserved");
    }
    let add =
        async |name: &str| fixture.post("/projects/site/domains", json!({ "domain": name })).await;
    let last = add("d99").await;
    assert_eq!(last.status, 201, "{}", last.text());
    let refused = add("d100").await;
    refused.assert_fields(&["domain"]);
    assert_eq!(refused.json()["detail"], "domain a project may have 100 domains");
    assert_eq!(zone.0.lock().expect("not poisoned").len(), 1, "no record of the refused domain");
    // A domain that the project has is no further one.
    assert_eq!(add("d99").await.status, 200);
    assert_eq!(add("d0").await.status, 200);
    // Another project has a hundred of its own.
    fixture.project("other").await;
    let other = fixture.post("/projects/other/domains", json!({})).await;
    assert_eq!(other.status, 201, "{}", other.text());
    // One that is removed makes room.
    assert_eq!(fixture.delete("/projects/site/domains/d99.example.com").await.status, 204);
    assert_eq!(add("d100").await.status, 201);
}
