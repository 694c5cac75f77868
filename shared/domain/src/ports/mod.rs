//! The ports: what rdev needs from the world outside the domain.
//!
//! Each is a noun with two real adapters or a remote service behind it, held as
//! `Arc<dyn …>`. Errors of an SDK or database end here as a [`PortError`].

mod ci;
mod dns;
mod error;
mod forge;
mod queue;
mod store;

pub use ci::{Ci, CiRepository};
pub use dns::{Dns, DnsRecord};
pub use error::{Conflict, PortError, PortResult};
pub use forge::{
    CommitState, CommitStatus, Forge, FoundPullRequest, Lack, Lacked, NewRepository,
    OpenedPullRequest, OwnRepository, PullRequest, PullRequestBranches, PushRight, PushTarget,
    Repository, SeedFile, Standing, Start,
};
pub use queue::{
    DeadMessage, MAX_RECEIVES, Queue, QueueStats, Receipt, ReceivedMessage, VISIBILITY,
};
pub use store::{
    Advanced, AuditFilter, Capabilities, Claim, Claimed, DeadLetter, Enqueued, EventPage, Record,
    Renewal, Store, Swept, TaskFilter, TaskRecord, WorkStats,
};
