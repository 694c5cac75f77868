//! `rdev domain`.

use clap::Subcommand;
use rdev_domain::dns::RecordKind;
use rdev_domain::ids::ProjectId;

use super::values::{Paging, path_segment};

/// `rdev domain …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Domain {
    /// Add a domain, or change its target.
    Add {
        /// The project's name.
        project: ProjectId,
        /// A name in the zone, or a label, which becomes LABEL.<zone>; default: the project's name.
        domain: Option<String>,
        /// The type of the record: A or CNAME; requires --target.
        #[arg(long = "type", value_name = "TYPE", requires = "target")]
        kind: Option<RecordKind>,
        /// The target: an IPv4 address for A, a name for CNAME; requires --type.
        #[arg(long, value_name = "TARGET", requires = "kind")]
        target: Option<String>,
        /// Whether to use the DNS provider's proxy: true or false.
        #[arg(long, value_name = "BOOL")]
        proxied: Option<bool>,
        /// The time to live in seconds: 60 to 86400, or 1 to let the provider choose.
        #[arg(long, value_name = "SECONDS")]
        ttl: Option<u64>,
    },
    /// List a project's domains, newest first.
    List {
        /// The project's name.
        project: ProjectId,
        #[command(flatten)]
        paging: Paging,
    },
    /// Remove a domain and its DNS record.
    Remove {
        /// The project's name.
        project: ProjectId,
        /// The name, or its label.
        #[arg(value_parser = path_segment)]
        domain: String,
    },
}
