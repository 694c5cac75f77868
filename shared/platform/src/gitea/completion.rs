//! What a pull request has beside its text: draft, labels, reviewers. What cannot be set is told,
//! and is no error.

use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::ports::{Lack, Lacked, PortError, PortResult, PullRequest};
use rdev_domain::pull_request::Reviewer;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::pull_request::Found;
use super::{Gitea, RepositoryPath, absent, invalid, refused};
use crate::http::Answer;
use crate::retry::Retries;

/// How long a call that the server does not take at once is tried again.
const PATIENCE: Duration = Duration::from_secs(3);

/// What begins the title of a draft, which is all that makes it one.
pub(super) const DRAFT: &str = "WIP: ";

/// A label, with the field that the adapter reads.
#[derive(Debug, Deserialize)]
pub(super) struct Label {
    pub(super) name: String,
}

/// A review that was given or asked for. It is of a user or of a team.
#[derive(Debug, Deserialize)]
pub(super) struct Review {
    pub(super) user: Option<User>,
    pub(super) team: Option<Team>,
}

#[derive(Debug, Deserialize)]
pub(super) struct User {
    pub(super) login: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Team {
    pub(super) name: String,
}

/// Sets what an open pull request lacks. `is_new`: this call has opened it.
pub(super) async fn complete(
    gitea: &Gitea,
    repository: &RepositoryPath,
    found: &Found,
    request: &PullRequest,
    is_new: bool,
) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if !found.is_open() {
        return lacks;
    }
    // Of one that was there before, a person may have decided.
    if is_new && request.draft && found.draft == Some(false) {
        let why = format!("the forge takes no title that begins with {DRAFT:?} for a draft's");
        lacks.push(Lack { what: Lacked::Draft, why });
    }
    let number = found.number.to_string();
    let of = Target { gitea, repository, number: &number };
    // When the server does not answer, it is not asked for the rest either.
    let mut silent: Option<String> = None;
    if !request.labels.is_empty() {
        let missing = of.set_labels(request).await;
        let missing = missing.unwrap_or_else(|error| {
            let why = in_words(&error, "write:issue");
            silent = error.is_transient().then(|| why.clone());
            request.labels.iter().map(|label| (label.clone(), why.clone())).collect()
        });
        let lack = |(label, why)| Lack { what: Lacked::Label(label), why };
        lacks.extend(missing.into_iter().map(lack));
    }
    for reviewer in &request.reviewers {
        let asked = match &silent {
            Some(why) => Err(why.clone()),
            None => of.ask(reviewer).await.unwrap_or_else(|error| {
                let why = in_words(&error, "write:repository");
                silent = error.is_transient().then(|| why.clone());
                Err(why)
            }),
        };
        if let Err(why) = asked {
            lacks.push(Lack { what: Lacked::Reviewer(reviewer.clone()), why });
        }
    }
    lacks
}

/// An error, and what to do about it.
fn in_words(error: &PortError, scope: &str) -> String {
    match error {
        PortError::Denied { .. } => {
            format!("{}; the token needs the scope {scope}", chain(error))
        }
        error => chain(error),
    }
}

/// A pull request.
struct Target<'a> {
    gitea: &'a Gitea,
    repository: &'a RepositoryPath,
    number: &'a str,
}

impl Target<'_> {
    /// Adds the labels, by their names; those that it does not have then. Names that the server
    /// does not know are left out of its answer, which is 200.
    async fn set_labels(
        &self,
        request: &PullRequest,
    ) -> PortResult<Vec<(rdev_domain::pull_request::Label, String)>> {
        let answer = self.post("issues", "labels", &json!({ "labels": request.labels })).await?;
        let has: Vec<Label> = match answer.status {
            StatusCode::OK => answer.json()?,
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
                return Err(invalid("the labels", &answer));
            }
            _ => return Err(refused(&answer, self.repository)),
        };
        let RepositoryPath { owner, name } = self.repository;
        let why = format!(
            "neither the repository {owner}/{name} nor its organisation has such a label; make it there, or take it out of the options"
        );
        let missing = request
            .labels
            .iter()
            .filter(|label| !has.iter().any(|has| has.name.eq_ignore_ascii_case(label.as_str())));
        Ok(missing.map(|label| (label.clone(), why.clone())).collect())
    }

    /// Asks for a review, unless that was done or the review is there: a second request would ask
    /// again who has answered. `Err` within: why it was not done.
    async fn ask(&self, reviewer: &Reviewer) -> PortResult<Result<(), String>> {
        let RepositoryPath { owner, name } = self.repository;
        let team = reviewer.team();
        if let Some((organisation, _)) = team
            && !organisation.eq_ignore_ascii_case(owner)
        {
            let why = format!("it is no team of {owner}, the owner of the repository");
            return Ok(Err(why));
        }
        let path = ["repos", owner, name, "pulls", self.number, "reviews"];
        let same = |review: &Review| match team {
            Some((_, team)) => {
                review.team.as_ref().is_some_and(|is| is.name.eq_ignore_ascii_case(team))
            }
            None => {
                let login = review.user.as_ref().map(|user| user.login.as_str());
                login.is_some_and(|login| login.eq_ignore_ascii_case(reviewer.as_str()))
            }
        };
        let refused = |answer: &Answer| refused(answer, self.repository);
        if self.gitea.find(&path, &[], refused, same).await?.is_some() {
            return Ok(Ok(()));
        }
        let body = match team {
            Some((_, team)) => json!({ "team_reviewers": [team] }),
            None => json!({ "reviewers": [reviewer] }),
        };
        let answer = self.post("pulls", "requested_reviewers", &body).await?;
        match answer.status {
            // In the repository of a user the server passes teams over, and says 201.
            StatusCode::CREATED if answer.json::<Vec<Review>>()?.is_empty() => {
                Ok(Err("the forge did not take the request".to_owned()))
            }
            StatusCode::CREATED => Ok(Ok(())),
            _ if absent(&answer) => {
                Ok(Err("the forge knows nobody of that name, or does not show it".to_owned()))
            }
            StatusCode::UNPROCESSABLE_ENTITY => {
                Ok(Err(chain(&invalid("the request for a review", &answer))))
            }
            _ => Err(refused(&answer)),
        }
    }

    /// Posts about the pull request. Nothing happens twice when that is repeated.
    async fn post(&self, kind: &str, what: &str, body: &Value) -> PortResult<Answer> {
        let RepositoryPath { owner, name } = self.repository;
        let path = ["repos", owner, name, kind, self.number, what];
        let mut retries = Retries::within(PATIENCE);
        loop {
            let answer = self.gitea.send(Method::POST, &path, &[], Some(body)).await;
            let answer = answer.and_then(|answer| match answer.status.is_server_error() {
                true => Err(super::unexpected(&answer)),
                false => Ok(answer),
            });
            match answer {
                // One that took its time already is not waited for again.
                Err(error)
                    if error.is_transient() && !matches!(error, PortError::TimedOut { .. }) =>
                {
                    retries.pause(error).await?;
                }
                answer => return answer,
            }
        }
    }
}
