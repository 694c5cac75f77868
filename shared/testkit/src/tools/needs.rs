//! Things that a machine may lack: a test that needs one is not run there, and says so.

use std::env;
use std::fmt;
use std::io::{self, Write};

/// A test could not run, for want of something outside of this repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotRun {
    /// What is needed, and how to get it.
    pub what: String,
}

impl NotRun {
    /// `what` is needed.
    pub fn needs(what: impl Into<String>) -> Self {
        Self { what: what.into() }
    }

    /// Ends a test that cannot run: says so on standard error.
    ///
    /// # Panics
    /// Where [everything is required](all_required).
    pub fn report(&self) {
        assert!(!all_required(), "{self}");
        // Nobody listens when this fails.
        let _ = writeln!(io::stderr(), "{self}");
    }
}

impl fmt::Display for NotRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not run: needs {}", self.what)
    }
}

impl std::error::Error for NotRun {}

/// Whether a test that cannot run is a failure: `RDEV_REQUIRE=all`, for machines that must
/// have everything.
pub fn all_required() -> bool {
    env::var_os("RDEV_REQUIRE").is_some_and(|value| value == "all")
}
