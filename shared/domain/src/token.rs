//! A secret that is known, or is fetched at its first use.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use crate::ports::PortResult;
use crate::secret::Secret;

/// A token of a system, or the secret that signs its webhooks.
#[derive(Clone)]
pub struct Token(Source);

/// A fetch that is under way.
pub type Fetching = Pin<Box<dyn Future<Output = PortResult<Secret>> + Send>>;

#[derive(Clone)]
enum Source {
    Known(Secret),
    Fetched { fetch: Arc<dyn Fn() -> Fetching + Send + Sync>, known: Arc<OnceLock<Secret>> },
}

impl Token {
    /// This text.
    pub fn known(secret: Secret) -> Self {
        Self(Source::Known(secret))
    }

    /// What `fetch` gets at the first use. A fetch that failed is tried again at the next.
    pub fn fetched(fetch: impl Fn() -> Fetching + Send + Sync + 'static) -> Self {
        Self(Source::Fetched { fetch: Arc::new(fetch), known: Arc::default() })
    }

    /// The text. First uses at the same moment fetch it each.
    ///
    /// # Errors
    /// Those of the fetch.
    pub async fn get(&self) -> PortResult<Secret> {
        let (fetch, known) = match &self.0 {
            Source::Known(secret) => return Ok(secret.clone()),
            Source::Fetched { fetch, known } => (fetch, known),
        };
        if let Some(secret) = known.get() {
            return Ok(secret.clone());
        }
        let fetched = fetch().await?;
        Ok(known.get_or_init(|| fetched).clone())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::ports::PortError;

    /// What a future that never waits ends with.
    fn now<T>(future: impl Future<Output = T>) -> T {
        match Box::pin(future).as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_token_is_fetched_at_its_first_use_and_kept_but_a_failed_fetch_is_not() {
        let fetches = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&fetches);
        let token = Token::fetched(move || {
            Box::pin(ready(match count.fetch_add(1, Ordering::Relaxed) {
                0 => Err(PortError::Denied { what: "the secret".to_owned() }),
                _ => Ok(Secret::new("sesame")),
            }))
        });
        assert_eq!(fetches.load(Ordering::Relaxed), 0);
        assert!(now(token.get()).is_err());
        let copy = token.clone();
        for token in [&token, &copy, &token] {
            assert_eq!(
                now(token.get()).map(|text| text.expose().to_owned()).ok(),
                Some("sesame".into())
            );
        }
        assert_eq!(fetches.load(Ordering::Relaxed), 2);
        assert_eq!(format!("{token:?}"), "[secret]");
    }
}
