//! A build as a client asks for it: started over HTTP, and followed until it has ended.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use futures_util::StreamExt;
use rdev_domain::time::Timestamp;
use serde_json::{Value, json};

use super::forge::{Forge, Requests};
use super::{Options, Work};
use crate::campaign::api::Place;
use crate::campaign::one_machine::OneMachine;
use crate::campaign::programs;

const PROJECT: &str = "site";

/// `rdev up`, with one project.
pub(super) struct Server {
    pub(super) forge: Forge,
    machine: OneMachine,
    http: reqwest::Client,
    place: Place,
}

/// A build that was measured.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    /// From the request to the record of its end, as a client sees it.
    pub(super) seen: Duration,
    /// From the record's beginning to its end.
    pub(super) recorded: Duration,
    /// When the request was sent, and the last moments of it.
    pub(super) asked: SystemTime,
    pub(super) told: SystemTime,
    /// When the store had its end.
    pub(super) ended: SystemTime,
    /// Its events.
    pub(super) events: Vec<Value>,
    pub(super) requests: Requests,
}

impl Server {
    /// Starts it, with everything below `folder`.
    pub(super) async fn start(options: &Options, forge: Forge, folder: &Path) -> Result<Self> {
        let program = match &options.rdev {
            Some(program) => std::path::absolute(program)?,
            None => programs::build("rdev", "rdev", &[])?,
        };
        let (data, log) = (folder.join("data"), folder.join("rdev.log"));
        fs::create_dir_all(&data)?;
        let more = forge.configuration();
        let mut machine = OneMachine::configure(program, data, log, "bench", &more)?;
        let place = machine.start().await?;
        // An error says that it was installed before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        let project = json!({ "name": PROJECT, "git_url": forge.url_of_build() });
        let server = Self { forge, machine, http, place };
        server.post("project", &project).await?;
        Ok(server)
    }

    /// Runs one build.
    pub(super) async fn build(&mut self, work: &Work) -> Result<Measured> {
        self.machine.still_runs()?;
        self.forge.forget();
        let verify: Vec<&str> = work.verify.iter().map(String::as_str).collect();
        let body = json!({ "prompt": work.prompt, "verify": verify });
        let (asked, begun) = (SystemTime::now(), Instant::now());
        let accepted = self.post(&format!("projects/{PROJECT}/builds"), &body).await?;
        let id = accepted["id"].as_str().context("the answer names no build")?;
        let path = format!("projects/{PROJECT}/builds/{id}");
        let events = self.follow(&format!("{path}/events")).await?;
        let record = self.get(&path).await?;
        let (seen, told) = (begun.elapsed(), SystemTime::now());
        if record["result"]["outcome"] != "delivered" {
            bail!("a build was not delivered: {record:#}");
        }
        let (from, ended) = (time(&record["created_at"])?, time(&record["updated_at"])?);
        let recorded = ended.duration_since(from).context("the clock went back")?;
        let requests = self.forge.requests();
        Ok(Measured { seen, recorded, asked, told, ended, events, requests })
    }

    /// Reads the events until the last one, as `rdev build start --follow` does.
    async fn follow(&self, path: &str) -> Result<Vec<Value>> {
        let request = self.http.get(format!("{}/{path}", self.place.url));
        let request = request.bearer_auth(&self.place.key).header("accept", "text/event-stream");
        let mut body = request.send().await?.error_for_status()?.bytes_stream();
        let (mut text, mut events) = (String::new(), Vec::new());
        while let Some(piece) = body.next().await {
            text.push_str(std::str::from_utf8(&piece?).context("an event that is not UTF-8")?);
            while let Some((line, rest)) = text.split_once('\n') {
                let event = line.strip_prefix("data:").map(str::to_owned);
                text = rest.to_owned();
                let Some(event) = event else { continue };
                let event: Value = serde_json::from_str(&event)?;
                if event["data"]["done"] == true {
                    return Ok(events);
                }
                events.push(event);
            }
        }
        bail!("the events of {path} ended before the build did")
    }

    async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        answer(self.http.post(format!("{}/{path}", self.place.url)).json(body), &self.place).await
    }

    async fn get(&self, path: &str) -> Result<Value> {
        answer(self.http.get(format!("{}/{path}", self.place.url)), &self.place).await
    }

    pub(super) async fn stop(&mut self) -> Result<()> {
        self.machine.stop().await
    }
}

async fn answer(request: reqwest::RequestBuilder, place: &Place) -> Result<Value> {
    let response = request.bearer_auth(&place.key).send().await?;
    let status = response.status();
    let text = response.text().await?;
    if !status.is_success() {
        bail!("{status}: {text}");
    }
    Ok(serde_json::from_str(&text)?)
}

/// A time of a record.
pub(super) fn time(value: &Value) -> Result<SystemTime> {
    let at: Timestamp = serde_json::from_value(value.clone()).context("a time")?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(at.as_millis())?))
}
