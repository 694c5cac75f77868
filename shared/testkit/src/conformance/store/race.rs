//! Races: things that begin together.

use std::future::Future;
use std::sync::Arc;

use rdev_domain::ports::{Conflict, PortError, PortResult};
use tokio::sync::Barrier;
use tokio::task::JoinHandle;

/// Runs `count` of them, which begin together.
pub(super) async fn race<T, F>(count: usize, go: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let start = Arc::new(Barrier::new(count));
    let mut racers = Vec::new();
    for number in 0..count {
        let (start, racer) = (Arc::clone(&start), go(number));
        racers.push(tokio::spawn(async move {
            start.wait().await;
            racer.await
        }));
    }
    let mut results = Vec::new();
    for racer in racers {
        results.push(joined(racer).await);
    }
    results
}

/// Runs both, which begin together.
pub(super) async fn race_two<A, B>(
    a: impl Future<Output = A> + Send + 'static,
    b: impl Future<Output = B> + Send + 'static,
) -> (A, B)
where
    A: Send + 'static,
    B: Send + 'static,
{
    let start = Arc::new(Barrier::new(2));
    let other = Arc::clone(&start);
    let a = tokio::spawn(async move {
        start.wait().await;
        a.await
    });
    let b = tokio::spawn(async move {
        other.wait().await;
        b.await
    });
    (joined(a).await, joined(b).await)
}

/// What a racer answered; its panic is the case's.
async fn joined<T>(racer: JoinHandle<T>) -> T {
    racer.await.unwrap_or_else(|gone| std::panic::resume_unwind(gone.into_panic()))
}

/// Repeats what only lost a race, as the runner does.
pub(super) async fn settled<T, F>(call: impl Fn() -> F) -> PortResult<T>
where
    F: Future<Output = PortResult<T>>,
{
    for _ in 0..50 {
        match call().await {
            Err(PortError::Conflict(Conflict::Contended)) => {}
            answer => return answer,
        }
    }
    Err(PortError::Conflict(Conflict::Contended))
}
