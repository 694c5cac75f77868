//! DNS: where a project's names are.

use async_trait::async_trait;

use super::PortResult;
use crate::dns::{DomainName, DomainSpec, RecordKind};

/// Keeps records in one zone. Each of ours has an ownership tag beside it; a record without it is
/// another owner's, and rdev never changes them.
#[async_trait]
pub trait Dns: Send + Sync + 'static {
    /// Makes the records of a name exactly this one: adds it, changes ours (an A to a CNAME at
    /// once, so that the name never leads nowhere), or leaves it as it is. The record's id.
    ///
    /// Errors: `Conflict(RecordNotOurs)` when the name has records of another owner;
    /// `Invalid` when the provider refuses the record permanently.
    async fn put(&self, spec: &DomainSpec, tag: &str) -> PortResult<String>;

    /// The A, AAAA and CNAME records of a name, ours and others.
    async fn records(&self, name: &DomainName) -> PortResult<Vec<DnsRecord>>;

    /// Deletes what is ours of a name: every record with the ownership tag, which belongs to one
    /// domain and was recorded with it before there was a record. The recorded `id` alone makes
    /// nothing ours. It may be of a record that is gone, since the answer that named the one in its
    /// place was lost; that one is deleted. Where nothing is, nothing is to do.
    ///
    /// Errors: `Conflict(RecordNotOurs)` when the name has only records of another owner.
    async fn delete(&self, name: &DomainName, id: Option<&str>, tag: &str) -> PortResult<()>;
}

/// A record at the provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    /// Its id there.
    pub id: String,
    /// Its kind, when it is one of ours.
    pub kind: Option<RecordKind>,
    /// What it says, without a final dot.
    pub content: String,
    /// Seconds; 1 is automatic.
    pub ttl: u32,
    /// Whether the provider's proxy stands before it.
    pub proxied: bool,
    /// The ownership tag beside it.
    pub ownership_tag: Option<String>,
}
