//! The rules for the fields of a project, whether it is created or changed.

use rdev_domain::git_url::{GitUrl, UrlPolicy};
use rdev_domain::spec::{FieldError, plain_text};
use rdev_domain::webhook::{Webhook, WebhookUrl};

use crate::app::App;
use crate::services::error::{field, refused};

/// Whether this installation may use a repository.
pub(crate) fn check_git_url(app: &App, url: &GitUrl, errors: &mut Vec<FieldError>) {
    if let Err(invalid) = url.check(&app.settings().url_policy) {
        errors.push(refused("git_url", &invalid));
    }
    let hosts = &app.settings().git_hosts;
    let allowed = hosts.is_empty() || url.host().is_none_or(|host| hosts.contains(&host));
    if !allowed {
        let hosts = hosts.join(", ");
        errors.push(field("git_url", format!("must be on one of: {hosts} (api.git_hosts)")));
    }
}

/// The webhook of `webhook_url` and `webhook_secret`; `None` without either.
pub(crate) fn webhook(
    app: &App,
    url: Option<WebhookUrl>,
    secret: Option<&str>,
    errors: &mut Vec<FieldError>,
) -> Option<Webhook> {
    match (url, secret) {
        (None, None) => None,
        (Some(_), None) => {
            errors.push(field("webhook_secret", "must be given with `webhook_url`"));
            None
        }
        (None, Some(_)) => {
            errors.push(field("webhook_url", "must be given with `webhook_secret`"));
            None
        }
        (Some(url), Some(secret)) => {
            let allow_private = app.settings().webhooks_to_private_addresses;
            let policy = UrlPolicy { allow_private, file_root: None };
            if let Err(invalid) = url.check(&policy) {
                errors.push(refused("webhook_url", &invalid));
            }
            match Webhook::secret(secret) {
                Ok(secret) => Some(Webhook { url, secret }),
                Err(invalid) => {
                    errors.push(refused("webhook_secret", &invalid));
                    None
                }
            }
        }
    }
}

pub(crate) fn check_description(description: Option<&str>, errors: &mut Vec<FieldError>) {
    if description.is_some_and(|text| text.chars().count() > 1000 || !plain_text(text)) {
        errors.push(field(
            "description",
            "must have at most 1000 characters and no NUL or control characters",
        ));
    }
}

pub(crate) fn check_build_limit(limit: Option<u32>, errors: &mut Vec<FieldError>) {
    if limit.is_some_and(|limit| !(1..=100).contains(&limit)) {
        errors.push(field("build_limit", "must lie between 1 and 100"));
    }
}
