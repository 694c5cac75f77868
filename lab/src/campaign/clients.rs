//! Those who use the API: they ask for builds, cancel some, and retry some that failed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rand::RngExt;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use super::api::Api;
use super::plan::Wish;

/// How long one request may have to be repeated: the server is down between a kill and the next
/// start, and paused for up to a minute.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// The tasks that may be due before the next build is asked for: the campaign's length is not that
/// of a queue.
const BACKLOG: u64 = 12;

/// The share of builds that are cancelled, and the share that is retried.
const CANCELLED: f64 = 0.05;
const RETRIED: f64 = 0.08;

/// What the API has accepted so far.
#[derive(Debug)]
pub(crate) struct Accepted {
    tasks: Mutex<BTreeSet<String>>,
    /// The builds among them that were asked for, without the retries.
    builds: watch::Sender<usize>,
    /// Everybody has what he asked for.
    over: AtomicBool,
    counts: Mutex<Counts>,
}

/// How much was cancelled and retried.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) cancels: usize,
    pub(crate) retries: usize,
    /// Second retries of a task that was retried, which were refused.
    pub(crate) refused_retries: usize,
}

impl Accepted {
    pub(crate) fn none() -> Self {
        Self {
            tasks: Mutex::default(),
            builds: watch::Sender::new(0),
            over: AtomicBool::new(false),
            counts: Mutex::default(),
        }
    }

    pub(crate) fn tasks(&self) -> BTreeSet<String> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The builds that were accepted so far.
    pub(crate) fn builds(&self) -> usize {
        *self.builds.borrow()
    }

    /// Waits until so many builds were accepted, but not longer than `limit`.
    pub(crate) async fn reached(&self, builds: usize, limit: Duration) {
        let mut accepted = self.builds.subscribe();
        let reached = accepted.wait_for(|accepted| *accepted >= builds);
        let _ = tokio::time::timeout(limit, reached).await;
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, change: impl FnOnce(&mut Counts)) {
        change(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Keeps the id of a build that the campaign itself has asked for at its end.
    pub(crate) fn add_closing(&self, answer: &Value) -> Result<()> {
        self.add(answer).map(drop)
    }

    /// Keeps the id in the answer to a request that queues a task.
    fn add(&self, answer: &Value) -> Result<String> {
        let id = answer["id"].as_str().context("an answer without an id")?;
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !tasks.insert(id.to_owned()) {
            bail!("two requests with different keys got one task: {id}");
        }
        Ok(id.to_owned())
    }
}

/// Asks for every build until it is accepted, but for no more than `allowed` so far.
pub(crate) async fn submit(
    api: &Api,
    accepted: &Accepted,
    wishes: Vec<Wish>,
    projects: &[String],
    mut allowed: watch::Receiver<usize>,
) -> Result<()> {
    for (n, wish) in wishes.iter().enumerate() {
        allowed.wait_for(|allowed| n < *allowed).await.context("the campaign was broken off")?;
        loop {
            let stats = api.get("/work/stats", PATIENCE).await?;
            if stats["due"].as_u64().context("no stats")? < BACKLOG {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        let project = &projects[wish.project];
        let path = format!("/projects/{project}/builds");
        let (body, key) = (Some(&wish.body), Some(wish.key.as_str()));
        let answer = api.ask(Method::POST, &path, body, key, PATIENCE).await?;
        if answer.status != 202 {
            bail!("POST {path}: {} {}", answer.status, answer.body);
        }
        accepted.add(&answer.body)?;
        accepted.builds.send_modify(|builds| *builds += 1);
    }
    accepted.over.store(true, Ordering::Relaxed);
    Ok(())
}

/// Cancels some builds and retries some that failed, until all builds were accepted.
pub(crate) async fn meddle(api: &Api, accepted: &Accepted, mut random: StdRng) -> Result<()> {
    let mut seen = 0;
    while !accepted.over.load(Ordering::Relaxed) {
        accepted.reached(seen + 1, Duration::from_secs(1)).await;
        let now = accepted.builds();
        for _ in seen..now {
            if random.random_bool(CANCELLED) {
                sleep(Duration::from_millis(random.random_range(0..1500))).await;
                cancel_one(api, accepted, &mut random).await?;
            }
            if random.random_bool(RETRIED) {
                retry_one(api, accepted, &mut random).await?;
            }
        }
        seen = now;
    }
    Ok(())
}

/// Cancels one of the newest tasks.
async fn cancel_one(api: &Api, accepted: &Accepted, random: &mut StdRng) -> Result<()> {
    let page = api.get("/work?limit=12", PATIENCE).await?;
    let Some(task) = one_of(&page, random) else { return Ok(()) };
    let path = format!("/work/{task}/cancel");
    let answer = api.ask(Method::POST, &path, None, None, PATIENCE).await?;
    match answer.status {
        200 | 202 => accepted.count(|counts| counts.cancels += 1),
        // It has ended, or is being pushed.
        409 => {}
        status => bail!("POST {path}: {status} {}", answer.body),
    }
    Ok(())
}

/// Retries one of the newest tasks that failed or were cancelled: twice, with different keys. The
/// second one has to be refused.
async fn retry_one(api: &Api, accepted: &Accepted, random: &mut StdRng) -> Result<()> {
    let state = if random.random_bool(0.7) { "failed" } else { "cancelled" };
    let page = api.get(&format!("/work?state={state}&limit=20"), PATIENCE).await?;
    let Some(task) = one_of(&page, random) else { return Ok(()) };
    for (n, key) in [format!("retry-{task}"), format!("again-{task}")].iter().enumerate() {
        let path = format!("/work/{task}/status");
        let status = api.get(&path, PATIENCE).await?;
        if !matches!(status["state"].as_str(), Some("failed" | "cancelled")) {
            return Ok(());
        }
        let project = status["project_id"].as_str().unwrap_or_default();
        let path = format!("/projects/{project}/builds/{task}/retry");
        let answer = api.ask(Method::POST, &path, Some(&json!({})), Some(key), PATIENCE).await?;
        match (answer.status, n) {
            // An earlier call of this function may have retried it: the key is the same then.
            (202, 0) => {
                if accepted.add(&answer.body).is_ok() {
                    accepted.count(|counts| counts.retries += 1);
                }
            }
            (202, _) => bail!("task {task} was retried twice: {}", answer.body),
            (409, _) => accepted.count(|counts| counts.refused_retries += 1),
            (status, _) => bail!("POST {path}: {status} {}", answer.body),
        }
    }
    Ok(())
}

fn one_of(page: &Value, random: &mut StdRng) -> Option<String> {
    let items = page["items"].as_array()?;
    if items.is_empty() {
        return None;
    }
    items[random.random_range(0..items.len())]["id"].as_str().map(str::to_owned)
}
