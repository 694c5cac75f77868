//! Pull requests: whether builds deliver by one, what is set on it, and what it says.

mod description;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use strum::{EnumCount, EnumString, IntoStaticStr, VariantArray};
use utoipa::ToSchema;

use crate::Invalid;
use crate::ids::text;
use crate::names::names;
use crate::spec::FieldError;

pub use description::{Description, MAX_BODY_BYTES, MAX_TITLE_CHARS, title};

/// The most labels, and the most reviewers, of a pull request.
const MOST: usize = 20;

/// How builds of a project deliver, unless they say so themselves.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Serialize,
    Deserialize,
    ToSchema,
    EnumCount,
    EnumString,
    IntoStaticStr,
    VariantArray,
)]
#[serde(rename_all = "snake_case")]
#[strum(serialize_all = "snake_case", parse_err_ty = Invalid, parse_err_fn = unknown)]
pub enum Deliver {
    /// To the branch.
    #[default]
    Branch,
    /// To a branch of their own, with a pull request to the branch.
    PullRequest,
}

names!(Deliver);

fn unknown(_: &str) -> Invalid {
    Invalid::new("deliver", "must be branch or pull_request")
}

/// What is set on a pull request when it is opened. Absent fields: of a build, as its project says;
/// of a project, nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PullRequestOptions {
    /// The names of labels that the repository or its organisation has: at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Vec<Label>>,
    /// Open it as a draft.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draft: Option<bool>,
    /// Who is asked for a review, each as `user` or `organisation/team`: at most 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reviewers: Option<Vec<Reviewer>>,
}

impl PullRequestOptions {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These options, and those of `others` where these say nothing.
    #[must_use]
    pub fn or(self, others: &Self) -> Self {
        Self {
            labels: self.labels.or_else(|| others.labels.clone()),
            draft: self.draft.or(others.draft),
            reviewers: self.reviewers.or_else(|| others.reviewers.clone()),
        }
    }

    /// These options with every field said.
    #[must_use]
    pub fn complete(self) -> Self {
        Self {
            labels: Some(self.labels.unwrap_or_default()),
            draft: Some(self.draft.unwrap_or_default()),
            reviewers: Some(self.reviewers.unwrap_or_default()),
        }
    }

    /// The rules that do not hold, of the options in the field `pull_request_options`.
    pub fn check(&self) -> Vec<FieldError> {
        let long = |length: usize| length > MOST;
        let lengths = [
            ("labels", self.labels.as_ref().map_or(0, Vec::len)),
            ("reviewers", self.reviewers.as_ref().map_or(0, Vec::len)),
        ];
        let broken = lengths.into_iter().filter(|(_, length)| long(*length));
        let rule = format!("must have at most {MOST} entries");
        broken
            .map(|(name, _)| FieldError::new(format!("pull_request_options.{name}"), &rule))
            .collect()
    }
}

/// The name of a label: 1 to 50 characters, no control characters, no blanks at its ends.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "made by rdev")]
pub struct Label(String);

impl FromStr for Label {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fits = (1..=50).contains(&text.chars().count());
        if fits && text.trim() == text && !text.contains(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        let why = "must have 1 to 50 characters, no control characters and no blanks at its ends";
        Err(Invalid::new("label", why))
    }
}

/// Who is asked for a review: `user`, or `organisation/team`. Each name has 1 to 100 characters of
/// `[A-Za-z0-9._-]`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String, example = "acme/reviewers")]
pub struct Reviewer(String);

impl Reviewer {
    /// The organisation and the team, if it is a team; otherwise it is a user.
    pub fn team(&self) -> Option<(&str, &str)> {
        self.0.split_once('/')
    }
}

impl FromStr for Reviewer {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let name = |name: &str| {
            (1..=100).contains(&name.len())
                && name.chars().all(good)
                && name.contains(|c: char| c != '.')
        };
        let valid = match text.split_once('/') {
            Some((organisation, team)) => name(organisation) && name(team),
            None => name(text),
        };
        if valid {
            return Ok(Self(text.to_owned()));
        }
        let why = "must be `user` or `organisation/team`, in names of 1 to 100 characters of A-Z, a-z, 0-9, '.', '_' and '-'";
        Err(Invalid::new("reviewer", why))
    }
}

text!(Label, Reviewer);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_some_characters_that_are_seen() {
        for good in ["x", "made by rdev", "scope/área", &"ä".repeat(50), "🦀"] {
            assert_eq!(good.parse::<Label>().expect("a label").as_str(), good);
        }
        for bad in ["", " ", " x", "x\u{a0}", "a\nb", "a\0b", &"x".repeat(51)] {
            assert!(bad.parse::<Label>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_reviewer_is_a_user_or_a_team_of_an_organisation() {
        let of = |text: &str| text.parse::<Reviewer>();
        assert_eq!(of("ann").expect("a user").team(), None);
        assert_eq!(of("a.c-m_e/Team1").expect("a team").team(), Some(("a.c-m_e", "Team1")));
        for bad in [
            "",
            "/",
            "a/",
            "/b",
            "a/b/c",
            "@ann",
            "a b",
            "ann@b.example",
            "..",
            "a/..",
            "ä",
            "a\n",
            &"x".repeat(101),
        ] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_build_says_goes_before_what_its_project_says() {
        let label = |name: &str| name.parse::<Label>().expect("a label");
        let project = PullRequestOptions {
            labels: Some(vec![label("a")]),
            draft: Some(true),
            reviewers: None,
        };
        let build = PullRequestOptions { labels: Some(vec![]), ..PullRequestOptions::default() };
        let both = build.or(&project);
        assert_eq!(
            (both.labels.as_deref(), both.draft, both.is_empty()),
            (Some(&[][..]), Some(true), false)
        );
        assert_eq!(both.complete().reviewers, Some(vec![]));
        assert!(PullRequestOptions::default().is_empty());
        let many = PullRequestOptions {
            labels: Some(vec![label("x"); 21]),
            ..PullRequestOptions::default()
        };
        let [error] = &many.check()[..] else { panic!("one rule") };
        assert_eq!(error.field, "pull_request_options.labels");
        assert_eq!(PullRequestOptions { labels: Some(vec![label("x"); 20]), ..many }.check(), []);
    }
}
