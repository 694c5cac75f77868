//! Protection from scale-in: ECS must not stop a container that builds.
//!
//! When a service has too many containers, ECS stops any of them. A runner asks the ECS
//! container agent for protection after it has received a wake-up and before it claims
//! (step 2 of `docs/protocol.md`), renews the protection while it builds, and ends it when
//! its last slot is free. Elsewhere no protection is needed.

use std::sync::Arc;
use std::time::Duration;

use rdev_domain::chain;
use reqwest::Url;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long protection lasts. A runner that hangs loses it after this time.
const EXPIRES_AFTER: Duration = Duration::from_secs(30 * 60);

/// The pause between a failed renewal and the next one.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The time limit for an answer of the ECS agent, which calls ECS itself.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What may stop this runner while it builds, and how the runner prevents it.
#[derive(Debug, Clone, Default)]
pub enum Protection {
    /// Nothing stops it without a SIGTERM and time to drain.
    #[default]
    None,
    /// ECS. The runner asks the ECS agent of its container for protection.
    Ecs {
        /// The agent's address, from `ECS_AGENT_URI`.
        agent: Url,
        /// How often protection is renewed while a build runs; less than 30 min.
        renew_every: Duration,
    },
}

impl Protection {
    /// ECS, with the agent at `agent_uri`.
    ///
    /// # Errors
    /// When that is no URL.
    pub fn ecs(agent_uri: &str) -> Result<Self, url::ParseError> {
        let agent = Url::parse(agent_uri)?;
        Ok(Self::Ecs { agent, renew_every: Duration::from_secs(10 * 60) })
    }
}

/// Why ECS gives no protection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtectionDenied {
    /// ECS refuses: it is about to stop the task, or a deployment waits.
    #[error("ECS gives no protection from scale-in: {0}")]
    Refused(String),
    /// The ECS agent did not answer.
    #[error("the ECS agent does not answer")]
    NoAnswer(#[source] reqwest::Error),
}

/// Keeps the runner protected while slots need it.
pub(crate) enum ScaleInGuard {
    /// No protection is needed.
    Unneeded,
    /// One protection for all slots.
    Ecs(Arc<Ecs>),
}

pub(crate) struct Ecs {
    http: reqwest::Client,
    state_url: Url,
    renew_every: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of slots that need it.
    slots: usize,
    /// When the current protection was requested.
    since: Option<Instant>,
}

/// A slot that needs the runner to be protected, until it is dropped.
pub(crate) struct ProtectedSlot(Option<Arc<Ecs>>);

impl ScaleInGuard {
    pub(crate) fn new(protection: Protection) -> Result<Self, reqwest::Error> {
        let Protection::Ecs { mut agent, renew_every } = protection else {
            return Ok(Self::Unneeded);
        };
        // It is a link-local address, with a path that names this container.
        let path = agent.path().trim_end_matches('/').to_owned();
        agent.set_path(&format!("{path}/task-protection/v1/state"));
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        let state = Mutex::default();
        Ok(Self::Ecs(Arc::new(Ecs { http, state_url: agent, renew_every, state })))
    }

    /// Protects the runner until the returned slot is dropped.
    ///
    /// # Errors
    /// When ECS gives no protection. Then the runner must not claim anything.
    pub(crate) async fn acquire(&self) -> Result<ProtectedSlot, ProtectionDenied> {
        let Self::Ecs(ecs) = self else { return Ok(ProtectedSlot(None)) };
        let mut state = ecs.state.lock().await;
        let fresh = state.since.is_some_and(|since| since.elapsed() < ecs.renew_every);
        if !fresh {
            let requested = Instant::now();
            ecs.set(true).await?;
            state.since = Some(requested);
        }
        state.slots += 1;
        drop(state);
        Ok(ProtectedSlot(Some(Arc::clone(ecs))))
    }

    /// Renews the protection for as long as this is polled.
    pub(crate) async fn renew_periodically(&self) {
        let Self::Ecs(ecs) = self else { return std::future::pending().await };
        let mut pause = ecs.renew_every;
        loop {
            tokio::time::sleep(pause).await;
            pause = ecs.renew_every;
            let mut state = ecs.state.lock().await;
            if state.slots == 0 {
                continue;
            }
            let requested = Instant::now();
            match ecs.set(true).await {
                Ok(()) => state.since = Some(requested),
                Err(error) => {
                    // Running builds continue: they are no worse off than without protection.
                    warn!(error = chain(&error), "protection from scale-in was not renewed");
                    pause = RETRY_AFTER.min(ecs.renew_every);
                }
            }
        }
    }
}

impl Drop for ProtectedSlot {
    fn drop(&mut self) {
        let Some(ecs) = self.0.take() else { return };
        tokio::spawn(async move { ecs.release().await });
    }
}

/// The response of the ECS agent.
#[derive(Deserialize)]
struct StateResponse {
    protection: Option<ProtectionState>,
    failure: Option<Reason>,
    error: Option<Reason>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ProtectionState {
    protection_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Reason {
    #[serde(alias = "Code")]
    reason: Option<String>,
    #[serde(alias = "Detail")]
    message: Option<String>,
}

impl Ecs {
    async fn set(&self, enabled: bool) -> Result<(), ProtectionDenied> {
        let minutes = EXPIRES_AFTER.as_secs() / 60;
        let body = match enabled {
            true => json!({"ProtectionEnabled": true, "ExpiresInMinutes": minutes}),
            false => json!({"ProtectionEnabled": false}),
        };
        let sent = self.http.put(self.state_url.clone()).json(&body).send().await;
        let response = sent.map_err(no_answer)?;
        let status = response.status();
        let text = response.bytes().await.map_err(no_answer)?;
        let response: StateResponse = serde_json::from_slice(&text).map_err(|_| {
            ProtectionDenied::Refused(format!("the ECS agent sent an unknown answer ({status})"))
        })?;
        if response.protection.is_some_and(|state| state.protection_enabled == enabled) {
            return Ok(());
        }
        let reason = response.failure.or(response.error);
        let words = reason.map(|it| [it.reason, it.message].into_iter().flatten().collect());
        let words: Vec<String> = words.unwrap_or_default();
        let reason = if words.is_empty() { status.to_string() } else { words.join(": ") };
        Err(ProtectionDenied::Refused(reason))
    }

    /// Releases one slot; with the last one the protection ends.
    async fn release(&self) {
        let mut state = self.state.lock().await;
        state.slots -= 1;
        if state.slots > 0 {
            return;
        }
        // Also if this call fails: the next slot has to request protection again.
        state.since = None;
        if let Err(error) = self.set(false).await {
            info!(error = chain(&error), "protection from scale-in was not ended; it expires");
        }
    }
}

fn no_answer(error: reqwest::Error) -> ProtectionDenied {
    ProtectionDenied::NoAnswer(error.without_url())
}
