//! What the cases of the suite are written with.

use std::fmt::{Debug, Display};
use std::sync::Arc;

use rdev_domain::Invalid;
use rdev_domain::dns::{DomainName, DomainSpec, RecordKind, Target, Ttl};
use rdev_domain::hostname::Hostname;
use rdev_domain::ports::{Conflict, Dns, DnsRecord, PortError, PortResult};
use ulid::Ulid;

use super::{DnsUnderTest, ForeignRecord};

/// An adapter, and a part of its zone that is this case's alone.
#[derive(Clone)]
pub(super) struct World {
    subject: Arc<DnsUnderTest>,
    own: String,
}

impl World {
    pub(super) fn new(subject: DnsUnderTest) -> Self {
        let own = format!("{}.{}", Ulid::generate().to_string().to_lowercase(), subject.zone);
        Self { subject: Arc::new(subject), own }
    }

    pub(super) fn dns(&self) -> &dyn Dns {
        self.subject.dns.as_ref()
    }

    pub(super) fn zone(&self) -> &Hostname {
        &self.subject.zone
    }

    pub(super) fn automatic_ttl(&self) -> u32 {
        self.subject.automatic_ttl
    }

    pub(super) fn has_proxy(&self) -> bool {
        self.subject.has_proxy
    }

    /// A name of this case.
    pub(super) fn name(&self, label: &str) -> DomainName {
        format!("{label}.{}", self.own).parse().expect("a name in the zone")
    }

    /// An ownership tag that no other record has, as long as one can be.
    pub(super) fn ownership_tag(&self) -> String {
        let id = Ulid::generate();
        format!("rdev:a{}z:{id}", "-".repeat(38))
    }

    pub(super) async fn put(&self, spec: &DomainSpec, tag: &str) -> PortResult<String> {
        self.dns().put(spec, tag).await
    }

    /// The only record of a name.
    pub(super) async fn only(&self, name: &DomainName) -> DnsRecord {
        let mut records = self.records(name).await;
        assert_eq!(records.len(), 1, "one record of {name}: {records:?}");
        records.remove(0)
    }

    pub(super) async fn records(&self, name: &DomainName) -> Vec<DnsRecord> {
        self.dns().records(name).await.expect("the records of a name in the zone")
    }

    /// Where a name leads for the world.
    pub(super) async fn look_up(&self, name: impl Display) -> Vec<String> {
        (self.subject.look_up)(name.to_string()).await
    }

    pub(super) async fn write(&self, name: &DomainName, kind: &'static str, content: &str) {
        self.write_with(name, kind, content, None).await;
    }

    pub(super) async fn write_with(
        &self,
        name: &DomainName,
        kind: &'static str,
        content: &str,
        comment: Option<&str>,
    ) {
        let record = ForeignRecord {
            name: name.to_string(),
            kind,
            content: Some(content.to_owned()),
            comment: comment.map(str::to_owned),
        };
        (self.subject.write)(record).await;
    }

    /// Removes a record without the adapter, ours too.
    pub(super) async fn take_away(&self, name: &DomainName, kind: &'static str) {
        let record = ForeignRecord { name: name.to_string(), kind, content: None, comment: None };
        (self.subject.write)(record).await;
    }
}

/// An A record, with a time to live that the provider chooses, and no proxy.
pub(super) fn a(name: &DomainName, address: &str) -> DomainSpec {
    spec(name, Target::parse(RecordKind::A, address, true).expect("an address"))
}

/// A CNAME record, likewise.
pub(super) fn cname(name: &DomainName, to: &str) -> DomainSpec {
    spec(name, Target::parse(RecordKind::Cname, to, true).expect("a name"))
}

fn spec(name: &DomainName, target: Target) -> DomainSpec {
    DomainSpec { domain: name.clone(), target, proxied: false, ttl: Ttl::AUTOMATIC }
}

pub(super) fn seconds(ttl: u64) -> Ttl {
    Ttl::try_from(ttl).expect("a time to live")
}

/// Asserts that it was refused because a record is foreign.
pub(super) fn not_ours<T: Debug>(outcome: PortResult<T>) {
    match outcome {
        Err(PortError::Conflict(Conflict::RecordNotOurs)) => {}
        other => panic!("it is refused because the record is foreign, not {other:?}"),
    }
}

/// It was refused for what it is.
pub(super) fn invalid<T: Debug>(outcome: PortResult<T>) -> Invalid {
    match outcome {
        Err(PortError::Invalid(invalid)) => invalid,
        other => panic!("refused as invalid: {other:?}"),
    }
}
