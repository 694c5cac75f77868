//! What the conformance suites share: how a case runs as a trial of its own.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use crate::tools::needs::NotRun;
use crate::tools::trial::{Outcome, Trial, asynchronous};

/// How many cases run at once. Most of them wait, and each has an adapter of its own.
pub const AT_ONCE: usize = 8;

/// A case that takes longer is stuck.
const DEADLINE: Duration = Duration::from_secs(900);

/// Whatever must live as long as a case runs, such as the folder of a database.
pub type Keep = Box<dyn Any + Send + Sync>;

/// A trial that opens an adapter and runs one case against it.
pub(super) fn trial<Subject, Opening, Case>(
    name: impl Into<String>,
    open: impl FnOnce() -> Opening + Send + 'static,
    case: impl FnOnce(Subject) -> Case + Send + 'static,
) -> Trial
where
    Subject: 'static,
    Opening: Future<Output = Result<Subject, NotRun>>,
    Case: Future<Output = ()>,
{
    asynchronous(name, async move || -> Outcome {
        let subject = open().await?;
        let ended = tokio::time::timeout(DEADLINE, case(subject)).await;
        assert!(ended.is_ok(), "the case has not ended after {} s", DEADLINE.as_secs());
        Ok(())
    })
}

/// The name of a case: its path below the suites.
pub(super) fn name(module_path: &str, case: &str) -> String {
    let (_, module) = module_path.split_once("conformance::").unwrap_or(("", module_path));
    format!("{module}::{case}")
}
