//! Values that several commands take.

use clap::Args;

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
