//! Things that a machine may lack. A test that needs one is ignored there, and says what it needs.

use std::env;
use std::fmt;

/// A test cannot run, because something outside of this repository is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRun {
    /// What is missing, and how to get it.
    pub what: String,
}

impl NotRun {
    pub fn needs(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}", self.what)
    }
}

impl std::error::Error for NotRun {}

/// Whether a test that cannot run is a failure: `RDEV_REQUIRE=all`, for machines that must
/// have everything.
pub fn all_required() -> bool {
    env::var_os("RDEV_REQUIRE").is_some_and(|value| value == "all")
}
