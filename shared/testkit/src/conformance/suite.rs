//! What both conformance suites share: cases with names, and what came of them.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};

/// A case that takes longer is stuck: some wait in it has no end.
const DEADLINE: Duration = Duration::from_secs(180);

/// How many cases run at once. Each has an adapter of its own.
const AT_ONCE: usize = 8;

/// Whatever must live as long as a case runs, as the folder of a database.
pub type Keep = Box<dyn Any + Send + Sync>;

/// A suite of which every case held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    suite: &'static str,
    ran: usize,
    left_out: Vec<(&'static str, &'static str)>,
}

/// A suite of which some cases did not hold. `Debug` is as readable as
/// `Display`, so that `expect` shows it well.
pub struct Failed {
    passed: Passed,
    failures: Vec<(&'static str, String)>,
}

impl Passed {
    /// How many cases ran.
    pub fn ran(&self) -> usize {
        self.ran
    }

    /// The cases that do not apply to this adapter, each with the reason.
    pub fn left_out(&self) -> &[(&'static str, &'static str)] {
        &self.left_out
    }
}

impl fmt::Display for Passed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} cases", self.suite, self.ran)?;
        for (name, why) in &self.left_out {
            write!(f, "\n  left out: {name} ({why})")?;
        }
        Ok(())
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{} failed:", self.passed, self.failures.len())?;
        for (name, why) in &self.failures {
            write!(f, "\n  {name}: {why}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Failed {}

/// How one case ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// What it says holds.
    Held,
    /// It does not apply to this adapter, for this reason.
    LeftOut(&'static str),
    /// It does not hold, for this reason.
    Failed(String),
}

/// Runs one case in a task of its own, so that its panic is a result.
pub(crate) async fn run_case(case: impl Future<Output = ()> + Send + 'static) -> Ended {
    let task = tokio::spawn(case);
    let stop = task.abort_handle();
    match tokio::time::timeout(DEADLINE, task).await {
        Ok(Ok(())) => Ended::Held,
        Ok(Err(gone)) if gone.is_panic() => Ended::Failed(message(gone.into_panic().as_ref())),
        Ok(Err(gone)) => Ended::Failed(gone.to_string()),
        Err(_) => {
            stop.abort();
            Ended::Failed(format!("was not done after {} s", DEADLINE.as_secs()))
        }
    }
}

/// Runs the cases of a suite, some at once, and adds up.
pub(crate) async fn run_suite(
    suite: &'static str,
    cases: Vec<(&'static str, BoxFuture<'_, Ended>)>,
) -> Result<Passed, Failed> {
    let mut ended: Vec<_> = stream::iter(cases)
        .map(|(name, case)| async move { (name, case.await) })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    ended.sort_by_key(|(name, _)| *name);
    let mut passed = Passed { suite, ran: 0, left_out: Vec::new() };
    let mut failures = Vec::new();
    for (name, ended) in ended {
        match ended {
            Ended::Held => passed.ran += 1,
            Ended::LeftOut(why) => passed.left_out.push((name, why)),
            Ended::Failed(why) => {
                passed.ran += 1;
                failures.push((name, why));
            }
        }
    }
    if failures.is_empty() { Ok(passed) } else { Err(Failed { passed, failures }) }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("panicked without a message").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_suite_names_the_cases_that_failed_and_counts_those_that_ran() {
        let cases: Vec<(&'static str, BoxFuture<'_, Ended>)> = vec![
            ("one_that_holds", Box::pin(run_case(async {}))),
            ("one_that_does_not", Box::pin(run_case(async { assert_eq!(1 + 1, 3, "sums") }))),
            ("one_that_is_left_out", Box::pin(async { Ended::LeftOut("not offered") })),
        ];
        let failed = run_suite("sample", cases).await.expect_err("one case does not hold");
        let text = failed.to_string();
        assert!(text.starts_with("sample: 2 cases\n"), "{text}");
        assert!(text.contains("left out: one_that_is_left_out (not offered)"), "{text}");
        assert!(text.contains("1 failed:\n  one_that_does_not: "), "{text}");
        assert!(text.contains("sums"), "{text}");
        assert!(!text.contains("one_that_holds"), "{text}");

        let held: Vec<(&'static str, BoxFuture<'_, Ended>)> =
            vec![("one_that_holds", Box::pin(run_case(async {})))];
        let passed = run_suite("sample", held).await.expect("every case holds");
        assert_eq!((passed.ran(), passed.to_string().as_str()), (1, "sample: 1 cases"));
    }
}
