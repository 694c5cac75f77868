//! Protection from scale-in: on ECS a task that builds is not the one to be stopped.
//!
//! ECS takes any task of a service away when there are too many. A runner asks its
//! container agent for protection after it has received a wake-up and before it claims
//! (step 2 of `docs/protocol.md`), renews it while it builds, and gives it back when its
//! last slot is free. Elsewhere there is nothing to ask.

use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::chain;

/// For how long protection is asked; a runner that hangs has it no longer.
const EXPIRES: Duration = Duration::from_secs(30 * 60);

/// How long after a failed renewal the next one is tried.
const RETRY: Duration = Duration::from_secs(60);

/// How long the agent may take to answer. It asks ECS itself.
const ANSWER: Duration = Duration::from_secs(10);

/// What can take this runner away while it builds, and whom to ask not to.
#[derive(Debug, Clone, Default)]
pub enum Protection {
    /// Nobody does without SIGTERM and time.
    #[default]
    None,
    /// ECS, which is asked through the container's agent.
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

/// Why there is no protection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Denied {
    /// ECS will not give it: the task is about to be stopped, or a deployment waits.
    #[error("ECS gives no protection from scale-in: {0}")]
    Refused(String),
    /// The agent did not answer as it should.
    #[error("the ECS agent does not answer")]
    NoAnswer(#[source] reqwest::Error),
}

/// Who is protected now, and until when.
pub(crate) enum Guard {
    /// There is nothing to do.
    Idle,
    /// One state for all slots.
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
    /// How many slots want it.
    holds: usize,
    /// When the protection that is there was asked for.
    since: Option<Instant>,
}

/// A slot that wants the runner to be protected, until it is dropped.
pub(crate) struct Hold(Option<Arc<Ecs>>);

impl Guard {
    pub(crate) fn new(protection: Protection) -> Result<Self, reqwest::Error> {
        let Protection::Ecs { mut agent, renew_every } = protection else { return Ok(Self::Idle) };
        // It is a link-local address, with a path that names this container.
        let path = agent.path().trim_end_matches('/').to_owned();
        agent.set_path(&format!("{path}/task-protection/v1/state"));
        let http = reqwest::Client::builder()
            .no_proxy()
            .tls_certs_only([])
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER)
            .build()?;
        let state = Mutex::default();
        Ok(Self::Ecs(Arc::new(Ecs { http, state_url: agent, renew_every, state })))
    }

    /// Protects the runner until what this gives is dropped.
    ///
    /// # Errors
    /// When there is no protection to be had. Then nothing may be claimed.
    pub(crate) async fn take(&self) -> Result<Hold, Denied> {
        let Self::Ecs(ecs) = self else { return Ok(Hold(None)) };
        let mut state = ecs.state.lock().await;
        let fresh = state.since.is_some_and(|since| since.elapsed() < ecs.renew_every);
        if !fresh {
            let asked = Instant::now();
            ecs.set(true).await?;
            state.since = Some(asked);
        }
        state.holds += 1;
        drop(state);
        Ok(Hold(Some(Arc::clone(ecs))))
    }

    /// Renews for as long as it is polled.
    pub(crate) async fn keep(&self) {
        let Self::Ecs(ecs) = self else { return std::future::pending().await };
        let mut pause = ecs.renew_every;
        loop {
            tokio::time::sleep(pause).await;
            pause = ecs.renew_every;
            let mut state = ecs.state.lock().await;
            if state.holds == 0 {
                continue;
            }
            let asked = Instant::now();
            match ecs.set(true).await {
                Ok(()) => state.since = Some(asked),
                Err(error) => {
                    // What runs goes on: it is no worse off than without protection.
                    warn!(error = chain(&error), "protection from scale-in was not renewed");
                    pause = RETRY.min(ecs.renew_every);
                }
            }
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let Some(ecs) = self.0.take() else { return };
        tokio::spawn(async move { ecs.release().await });
    }
}

/// What the agent answers.
#[derive(Deserialize)]
struct Answer {
    protection: Option<Given>,
    failure: Option<Said>,
    error: Option<Said>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Given {
    protection_enabled: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    #[serde(alias = "Code")]
    reason: Option<String>,
    #[serde(alias = "Detail")]
    message: Option<String>,
}

impl Ecs {
    async fn set(&self, on: bool) -> Result<(), Denied> {
        let minutes = EXPIRES.as_secs() / 60;
        let body = match on {
            true => json!({"ProtectionEnabled": true, "ExpiresInMinutes": minutes}),
            false => json!({"ProtectionEnabled": false}),
        };
        let asked = self.http.put(self.state_url.clone()).json(&body).send().await;
        let answer = asked.map_err(no_answer)?;
        let status = answer.status();
        let text = answer.bytes().await.map_err(no_answer)?;
        let answer: Answer = serde_json::from_slice(&text)
            .map_err(|_| Denied::Refused(format!("a strange answer of the agent ({status})")))?;
        if answer.protection.is_some_and(|given| given.protection_enabled == on) {
            return Ok(());
        }
        let said = answer.failure.or(answer.error);
        let said = said.map(|said| [said.reason, said.message].into_iter().flatten().collect());
        let said: Vec<String> = said.unwrap_or_default();
        Err(Denied::Refused(if said.is_empty() { status.to_string() } else { said.join(": ") }))
    }

    /// One slot less that wants protection; it is given back with the last one.
    async fn release(&self) {
        let mut state = self.state.lock().await;
        state.holds -= 1;
        if state.holds > 0 {
            return;
        }
        // Whatever comes of it: the next one has to ask again.
        state.since = None;
        if let Err(error) = self.set(false).await {
            info!(error = chain(&error), "protection from scale-in ends by itself");
        }
    }
}

fn no_answer(error: reqwest::Error) -> Denied {
    Denied::NoAnswer(error.without_url())
}
