//! Why a value was refused, and how an error is shown with its causes.

use std::error::Error;
use std::iter;

/// Why a text was not accepted as a value of a type.
///
/// `what` names the type ("project id"), `why` the rule that was broken, in
/// words that fit into an API answer. The refused text itself is not repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct Invalid {
    /// The name of the type, as a reader of the API knows it.
    pub what: &'static str,
    /// The rule that was broken.
    pub why: String,
}

impl Invalid {
    /// `what` was refused because it `why`.
    pub fn new(what: &'static str, why: impl Into<String>) -> Self {
        Self { what, why: why.into() }
    }
}

/// An error and its causes in one line: `cannot read x: permission denied`.
pub fn chain(error: &dyn Error) -> String {
    iter::successors(error.source(), |cause| (*cause).source())
        .fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PortError;

    #[test]
    fn an_error_is_shown_with_all_its_causes() {
        let refused = Invalid::new("name", "must not be empty");
        assert_eq!(chain(&refused), "name must not be empty");
        let inner = PortError::unavailable("the forge", refused);
        let outer = PortError::broken("the build", inner);
        let text = "the build failed: the forge is not available: name must not be empty";
        assert_eq!(chain(&outer), text);
    }
}
