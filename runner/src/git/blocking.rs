//! Runs git work outside the threads of the runtime.

use super::GitError;

/// Runs git work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, GitError> + Send + 'static,
) -> Result<T, GitError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        // It cannot be cancelled, because nobody has its handle. So it panicked: a defect, which
        // `job` turns into a failure of the attempt.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
