//! `rdev key`.

#[cfg(feature = "aws")]
use clap::Args;
use clap::Subcommand;
use rdev_domain::ids::KeyId;
use rdev_domain::key::Scope;

use super::values::Paging;
#[cfg(feature = "aws")]
use super::values::not_empty;

/// `rdev key …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Create a key. rdev prints it once and cannot show it again.
    Create {
        /// A name for people.
        name: String,
        /// A scope of the key, such as builds:write; can be repeated.
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<Scope>,
    },
    /// List keys, without their secrets.
    List(Paging),
    /// Revoke a key.
    Revoke {
        /// The key's id.
        id: KeyId,
    },
    /// Write the first key directly into the table on AWS, with your own AWS permissions.
    #[cfg(feature = "aws")]
    Bootstrap(Bootstrap),
}

/// `rdev key bootstrap`.
#[cfg(feature = "aws")]
#[derive(Debug, Args)]
pub(crate) struct Bootstrap {
    /// The stack of the table.
    #[arg(long, value_name = "NAME", required_unless_present = "table", conflicts_with = "table")]
    pub(crate) stack: Option<String>,
    /// The name of the table.
    #[arg(long, value_name = "NAME")]
    pub(crate) table: Option<String>,
    /// A name for people.
    #[arg(long, value_name = "TEXT", default_value = "bootstrap", value_parser = not_empty)]
    pub(crate) name: String,
    /// A scope of the key; can be repeated.
    #[arg(long = "scope", value_name = "SCOPE", default_value = "admin", value_delimiter = ',')]
    pub(crate) scopes: Vec<Scope>,
}
