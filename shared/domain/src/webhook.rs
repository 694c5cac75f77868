//! Webhooks: messages about builds that ended, and their deliveries.

use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ulid::Ulid;
use url::Url;
use utoipa::ToSchema;

use crate::Invalid;
use crate::git_url::UrlPolicy;
use crate::ids::{ProjectId, TaskId, text};
use crate::secret::Secret;
use crate::task::{Task, TaskState};
use crate::time::Timestamp;

/// How often a delivery is tried.
pub const MAX_TRIES: u32 = 8;

/// How long a delivery may take.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// How long the log of deliveries is kept.
pub const KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// After how long a delivery is tried again: 5 s after the first try, then 5 min, 30 min, 2 h,
/// 5 h, 10 h, 14 h, as Standard Webhooks proposes.
const BACKOFF_S: [u64; 7] = [5, 300, 1800, 7200, 18_000, 36_000, 50_400];

/// Where webhooks go: `https://` (or `http://`), without credentials or fragment, at most
/// 2,000 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "https://hooks.example.com/rdev")]
pub struct WebhookUrl(String);

impl WebhookUrl {
    /// Whether an installation with this policy may call it. Names are checked again when they
    /// have been resolved.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, policy: &UrlPolicy) -> Result<(), Invalid> {
        let url = Url::parse(&self.0).map_err(|_| invalid("is not a URL"))?;
        let host = url.host().ok_or_else(|| invalid("must name a host"))?;
        policy.check_host(&host).map_err(|_| invalid("must not name a private address"))
    }
}

impl FromStr for WebhookUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.len() > 2000 {
            return Err(invalid("must have 1 to 2000 bytes"));
        }
        if text.contains(|c: char| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(invalid("must not have blanks, control characters or backslashes"));
        }
        let url = Url::parse(text).map_err(|_| invalid("is not a URL"))?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(invalid("must begin with https:// or http://"));
        }
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(invalid("must not have credentials or a fragment"));
        }
        Ok(Self(url.into()))
    }
}

text!(WebhookUrl);

fn invalid(why: &str) -> Invalid {
    Invalid::new("webhook URL", why)
}

/// A project's webhook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Webhook {
    /// Where it goes.
    pub url: WebhookUrl,
    /// What signs it: `whsec_` and 24 to 64 bytes in base64 (Standard Webhooks).
    pub secret: Secret,
}

impl Webhook {
    /// Reads a secret.
    ///
    /// # Errors
    /// It is not a secret of this form.
    pub fn secret(text: &str) -> Result<Secret, Invalid> {
        let why = "must be `whsec_` and 24 to 64 bytes in base64";
        let bytes = text.strip_prefix("whsec_").and_then(|text| STANDARD.decode(text).ok());
        match bytes {
            Some(bytes) if (24..=64).contains(&bytes.len()) => Ok(Secret::new(text)),
            _ => Err(Invalid::new("webhook secret", why)),
        }
    }
}

/// One message to a webhook, and what became of it. Written in the transaction that ends its task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Delivery)]
pub struct WebhookDelivery {
    /// Its id, and the message's: the same at every try.
    #[schema(value_type = String)]
    pub id: Ulid,
    /// The project.
    pub project_id: ProjectId,
    /// Which project of that name, as in its task.
    #[serde(default)]
    #[schema(ignore)]
    pub project_nonce: Ulid,
    /// The task that it tells of.
    pub task_id: TaskId,
    /// What it tells: `build.succeeded`, `build.failed`, `build.cancelled`.
    pub event: String,
    /// How far it is.
    pub state: DeliveryState,
    /// How often it was tried.
    pub tries: u32,
    /// When it is tried next.
    pub next_at: Option<Timestamp>,
    /// The status that the last try was answered with.
    pub status: Option<u16>,
    /// What went wrong with the last try.
    pub error: Option<String>,
    /// When the task ended.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// How far a delivery is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is tried, or will be again.
    Pending,
    /// It was answered with 2xx.
    Delivered,
    /// It was given up.
    Failed,
}

impl WebhookDelivery {
    /// The delivery of the message that a task has ended, if its project has a webhook.
    pub fn of(task: &Task, id: Ulid, now: Timestamp) -> Option<Self> {
        let event = match task.state {
            TaskState::Succeeded => "build.succeeded",
            TaskState::Failed => "build.failed",
            TaskState::Cancelled => "build.cancelled",
            _ => return None,
        };
        task.notify.then(|| Self {
            id,
            project_id: task.project_id.clone(),
            project_nonce: task.project_nonce,
            task_id: task.id,
            event: event.to_owned(),
            state: DeliveryState::Pending,
            tries: 0,
            next_at: Some(now),
            status: None,
            error: None,
            created_at: now,
            updated_at: now,
        })
    }

    /// A try begins. It is counted first: if the process dies, the delivery is tried again later.
    #[must_use]
    pub fn begun(&self, now: Timestamp) -> Self {
        let wait = BACKOFF_S[(self.tries as usize).min(BACKOFF_S.len() - 1)];
        // Not before this try can have ended.
        let wait = Duration::from_secs(wait).max(TIMEOUT * 2);
        let next_at = Some(now.plus(wait));
        Self { tries: self.tries + 1, next_at, updated_at: now, ..self.clone() }
    }

    /// A try, begun by [`WebhookDelivery::begun`], was answered (or not, and then `error` says
    /// why).
    #[must_use]
    pub fn ended(&self, status: Option<u16>, error: Option<String>, now: Timestamp) -> Self {
        let delivered = status.is_some_and(|status| (200..300).contains(&status));
        // 410 Gone: the receiver wants no more messages.
        let given_up = !delivered && (self.tries >= MAX_TRIES || status == Some(410));
        let wait = BACKOFF_S[(self.tries.saturating_sub(1) as usize).min(BACKOFF_S.len() - 1)];
        let (state, next_at) = if delivered {
            (DeliveryState::Delivered, None)
        } else if given_up {
            (DeliveryState::Failed, None)
        } else {
            (DeliveryState::Pending, Some(now.plus(Duration::from_secs(wait))))
        };
        Self { state, next_at, status, error, updated_at: now, ..self.clone() }
    }

    /// The delivery is given up because `why`.
    #[must_use]
    pub fn dropped(&self, why: &str, now: Timestamp) -> Self {
        let state = DeliveryState::Failed;
        let error = Some(why.to_owned());
        Self { state, next_at: None, error, updated_at: now, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{BuildSpec, Work};

    fn delivery() -> WebhookDelivery {
        let now = Timestamp::from_millis(0);
        let project = "site".parse().expect("a project");
        let mut task =
            Task::new(TaskId(Ulid::nil()), project, Work::Build(BuildSpec::of("x")), now);
        assert_eq!(WebhookDelivery::of(&task, Ulid::nil(), now), None, "it has not ended");
        task.state = TaskState::Failed;
        assert_eq!(WebhookDelivery::of(&task, Ulid::nil(), now), None, "it has no webhook");
        task.notify = true;
        WebhookDelivery::of(&task, Ulid::nil(), now).expect("a message")
    }

    #[test]
    fn a_delivery_is_tried_eight_times_with_growing_waits_and_then_given_up() {
        let (mut one, mut now, mut waits) = (delivery(), Timestamp::from_millis(0), Vec::new());
        while one.state == DeliveryState::Pending {
            one = one.begun(now).ended(Some(500), None, now);
            if let Some(next) = one.next_at {
                waits.push((next.as_millis() - now.as_millis()) / 1000);
                now = next;
            }
        }
        assert_eq!((one.state, one.tries), (DeliveryState::Failed, 8));
        assert_eq!(waits, [5, 300, 1800, 7200, 18_000, 36_000, 50_400]);
    }

    #[test]
    fn a_good_answer_and_gone_end_it() {
        let now = Timestamp::from_millis(0);
        let state = |status| delivery().begun(now).ended(Some(status), None, now).state;
        assert_eq!(state(204), DeliveryState::Delivered);
        assert_eq!(state(410), DeliveryState::Failed);
        assert_eq!(state(302), DeliveryState::Pending);
    }

    #[test]
    fn a_secret_is_one_of_standard_webhooks() {
        let good = format!("whsec_{}", STANDARD.encode([7; 24]));
        assert!(Webhook::secret(&good).is_ok());
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        for bad in ["", "whsec_", "sesame", &short, &good["whsec_".len()..]] {
            assert!(Webhook::secret(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_webhook_goes_to_a_public_address() {
        let closed = UrlPolicy::default();
        let ok =
            |text: &str| text.parse::<WebhookUrl>().is_ok_and(|url| url.check(&closed).is_ok());
        assert!(ok("https://hooks.example.com/a?b=c"));
        for bad in [
            "",
            "x",
            "ftp://a.b/c",
            "https://u:p@a.b/",
            "https://127.0.0.1/",
            "http://localhost/",
            "http://[::ffff:10.0.0.1]/",
            "http://169.254.169.254/",
            "http://2130706433/",
        ] {
            assert!(!ok(bad), "{bad}");
        }
    }
}
