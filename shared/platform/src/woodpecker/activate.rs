//! Activating and removing a repository. Both can be repeated, whatever the result of an earlier
//! call.

use rdev_domain::Invalid;
use rdev_domain::git_url::GitUrl;
use rdev_domain::pipeline::CiId;
use rdev_domain::ports::{CiRepository, Conflict, PortError, PortResult};
use reqwest::{Method, StatusCode};
use url::Url;

use super::shapes::Repository;
use super::{SYSTEM, Woodpecker, refused};
use crate::http::Answer;

impl Woodpecker {
    pub(super) async fn activate_repository(&self, repository: &CiRepository) -> PortResult<CiId> {
        let forge_id = repository.forge_id.to_string();
        let [owner, name] = owner_and_name(&repository.git_url)?;
        let query = [("forge_remote_id", forge_id.as_str())];
        let answer = self.call(Method::POST, &["repos"], &query).await?;
        match answer.status {
            StatusCode::OK => {
                let activated: Repository = answer.json()?;
                if activated.active && activated.forge_remote_id == forge_id {
                    return Ok(CiId(activated.id));
                }
                let why = format!("it activated another repository than {forge_id}");
                Err(PortError::upstream(SYSTEM, why))
            }
            // The repository is active already, by an earlier call of ours or by hand; or another
            // repository of the same name blocks it. Before 3.14 the status was 500; before 3.2,
            // 500 could also mean that the repository is active but has no webhook.
            StatusCode::CONFLICT | StatusCode::INTERNAL_SERVER_ERROR => {
                self.adopt(&answer, &forge_id, &owner, &name).await
            }
            StatusCode::NOT_FOUND => Err(PortError::not_found(format!(
                "repository {forge_id} ({owner}/{name}) that the CI server can see"
            ))),
            _ => Err(refused(&answer)),
        }
    }

    /// Uses the existing repository, if it is the right one.
    async fn adopt(
        &self,
        first: &Answer,
        forge_id: &str,
        owner: &str,
        name: &str,
    ) -> PortResult<CiId> {
        let answer = self.call(Method::GET, &["repos", "lookup", owner, name], &[]).await?;
        let conflict = first.status == StatusCode::CONFLICT;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND if conflict => {
                let why = format!(
                    "it has repository {forge_id} active under another name than {owner}/{name}; \
                     repair it in its settings there"
                );
                return Err(PortError::upstream(SYSTEM, why));
            }
            StatusCode::NOT_FOUND => return Err(refused(first)),
            _ => return Err(refused(if conflict { &answer } else { first })),
        }
        let found: Repository = answer.json()?;
        if found.forge_remote_id != forge_id {
            let why = format!(
                "it has an older repository {owner}/{name} (id {} on the forge instead of \
                 {forge_id}); delete it in its settings there, then provision again",
                found.forge_remote_id
            );
            return Err(PortError::upstream(SYSTEM, why));
        }
        match (found.active, conflict) {
            (true, _) => self.repair(found.id).await,
            // Somebody deactivated it in the meantime; the next call activates it again.
            (false, true) => Err(Conflict::Contended.into()),
            (false, false) => Err(refused(first)),
        }
    }

    /// Lets Woodpecker create its webhook at the forge again: the call that activated the
    /// repository may have ended before, and without the webhook no push starts a pipeline.
    async fn repair(&self, id: u64) -> PortResult<CiId> {
        let text = id.to_string();
        let answer = self.call(Method::POST, &["repos", &text, "repair"], &[]).await?;
        match answer.status {
            StatusCode::NO_CONTENT => Ok(CiId(id)),
            StatusCode::OK if answer.body.is_empty() => Ok(CiId(id)),
            _ => Err(refused(&answer)),
        }
    }

    pub(super) async fn remove_repository(&self, ci: CiId) -> PortResult<()> {
        match self.remove_once(ci).await {
            // Before 3.2 it removed its own entry first and then failed if the repository did not
            // exist on the forge any more; the second call succeeds.
            Err(PortError::Unavailable { .. }) => self.remove_once(ci).await,
            done => done,
        }
    }

    async fn remove_once(&self, ci: CiId) -> PortResult<()> {
        let id = ci.0.to_string();
        // Without `remove` the entry stays, and blocks the next repository of the same name.
        let answer = self.call(Method::DELETE, &["repos", &id], &[("remove", "true")]).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            // The answer shows the repository as it was: active, as if nothing had happened.
            StatusCode::OK | StatusCode::NO_CONTENT => self.confirm_removed(&id).await,
            _ => Err(refused(&answer)),
        }
    }

    /// Looks for a repository that was removed: only that it is not found says that it is gone.
    async fn confirm_removed(&self, id: &str) -> PortResult<()> {
        let answer = self.call(Method::GET, &["repos", id], &[]).await?;
        match answer.status {
            StatusCode::NOT_FOUND => Ok(()),
            StatusCode::OK => {
                // A page of HTML is from something else than Woodpecker.
                answer.json::<Repository>()?;
                let why = format!("it still has repository {id}, which it was asked to remove");
                Err(PortError::upstream(SYSTEM, why))
            }
            _ => Err(refused(&answer)),
        }
    }
}

/// The last two parts of a clone URL.
fn owner_and_name(git_url: &GitUrl) -> PortResult<[String; 2]> {
    let none = || Invalid::new("clone URL", "must end in /<owner>/<name>.git for the CI server");
    let url = Url::parse(git_url.as_str()).map_err(|_| none())?;
    let path = url.path().trim_end_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next()) {
        // An escape in the name would be escaped again; no forge allows such names.
        (Some(name), Some(owner))
            if !owner.is_empty() && !name.is_empty() && !path.contains('%') =>
        {
            Ok([owner.to_owned(), name.to_owned()])
        }
        _ => Err(none().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_and_name_are_the_last_two_parts_of_the_url() {
        let parts = |url: &str| owner_and_name(&url.parse().expect(url)).ok();
        let site = Some(["team".to_owned(), "site".to_owned()]);
        assert_eq!(parts("https://git.example.com/team/site.git"), site);
        assert_eq!(parts("https://example.com/git/team/site"), site);
        for bad in ["https://h/site.git", "https://h/a%2fb/site.git", "https://h//.git"] {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }
}
