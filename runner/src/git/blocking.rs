//! Git work off the threads of the runtime.

use super::GitError;

/// Runs git work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        // Not cancelled: nobody holds its handle. A defect; the attempt's own
        // guard turns it into a failure.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
