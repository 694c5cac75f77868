//! Values that several commands take.

use clap::Args;
use rdev_domain::pull_request::{Label, PullRequestOptions, Reviewer};
use serde_json::{Value, json};

/// Selects a page of a list.
#[derive(Debug, Args)]
pub(crate) struct Paging {
    /// The number of entries: 1 to 100.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) limit: u32,
    /// The cursor that the previous page printed.
    #[arg(long, value_name = "CURSOR")]
    pub(crate) cursor: Option<String>,
}

/// What is set on pull requests.
#[derive(Debug, Args)]
pub(crate) struct PullRequestArgs {
    /// A label of the pull request; can be repeated.
    #[arg(long, value_name = "NAME")]
    label: Vec<Label>,
    /// Open the pull request as a draft.
    #[arg(long)]
    draft: bool,
    /// Do not open the pull request as a draft.
    #[arg(long, conflicts_with = "draft")]
    no_draft: bool,
    /// Ask for a review: USER, or ORGANISATION/TEAM; can be repeated.
    #[arg(long, value_name = "NAME")]
    reviewer: Vec<Reviewer>,
}

impl PullRequestArgs {
    /// The options in a request; `None` when nothing is said.
    pub(crate) fn in_json(self) -> Option<Value> {
        let options = PullRequestOptions {
            labels: Some(self.label).filter(|labels| !labels.is_empty()),
            draft: (self.draft || self.no_draft).then_some(self.draft),
            reviewers: Some(self.reviewer).filter(|reviewers| !reviewers.is_empty()),
        };
        (!options.is_empty()).then(|| json!(options))
    }
}

/// A text that needs no escaping in a URL path.
pub(super) fn path_segment(text: &str) -> Result<String, &'static str> {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !"/?#%\\".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        Ok(text.to_owned())
    } else {
        Err("must be a name")
    }
}

/// A text that is not blank.
pub(super) fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("must not be empty") } else { Ok(text.to_owned()) }
}
