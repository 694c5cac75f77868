//! `when`: under which conditions a workflow or a step runs.

use std::collections::BTreeMap;

use serde_norway::{Mapping, Value};

use super::definition::texts;
use super::evaluate::evaluate;

/// A list of conditions, of which one must hold. None: only as long as nothing has failed.
#[derive(Debug, Clone, Default)]
pub(super) struct When(Vec<Condition>);

/// All that is given must hold.
#[derive(Debug, Clone, Default)]
struct Condition {
    event: Option<Match>,
    branch: Option<Match>,
    status: Option<Match>,
    /// What its `evaluate` came to.
    evaluated: Option<bool>,
}

#[derive(Debug, Clone, Default)]
struct Match {
    /// None: everything.
    include: Vec<String>,
    exclude: Vec<String>,
}

impl When {
    /// Reads it; `known` are the variables of its expressions.
    pub(super) fn read(
        value: Option<&Value>,
        known: &BTreeMap<String, String>,
    ) -> Result<Self, String> {
        match value {
            None | Some(Value::Null) => Ok(Self::default()),
            Some(Value::Mapping(one)) => Ok(Self(vec![Condition::read(one, known)?])),
            Some(Value::Sequence(several)) => {
                let read = several.iter().map(|one| match one {
                    Value::Mapping(one) => Condition::read(one, known),
                    _ => Err("`when` must be a list of conditions".to_owned()),
                });
                Ok(Self(read.collect::<Result<_, _>>()?))
            }
            Some(_) => Err("`when` must be a condition or a list of them".to_owned()),
        }
    }

    /// Whether it holds, when steps before have `failed` or not.
    pub(super) fn holds(&self, event: &str, branch: &str, failed: bool) -> bool {
        if self.0.is_empty() {
            return !failed;
        }
        self.0.iter().any(|one| one.holds(event, branch, failed))
    }

    /// Whether it can hold at all.
    pub(super) fn may_hold(&self, event: &str, branch: &str) -> bool {
        self.holds(event, branch, false) || self.holds(event, branch, true)
    }
}

impl Condition {
    fn read(mapping: &Mapping, known: &BTreeMap<String, String>) -> Result<Self, String> {
        let mut condition = Self::default();
        for (name, value) in mapping {
            let name = name.as_str().unwrap_or_default();
            let slot = match name {
                "event" => &mut condition.event,
                "branch" => &mut condition.branch,
                "status" => &mut condition.status,
                "evaluate" => {
                    let text = value.as_str().ok_or("`evaluate` must be a text")?;
                    condition.evaluated = Some(evaluate(text, known)?);
                    continue;
                }
                _ => return Err(format!("this server does not know the condition `{name}`")),
            };
            *slot = Some(Match::read(value)?);
        }
        Ok(condition)
    }

    fn holds(&self, event: &str, branch: &str, failed: bool) -> bool {
        let status = if failed { "failure" } else { "success" };
        // Without a status: when nothing has failed.
        self.event.as_ref().is_none_or(|it| it.fits(event))
            && self.branch.as_ref().is_none_or(|it| it.fits(branch))
            && self.evaluated.unwrap_or(true)
            && self.status.as_ref().map_or(!failed, |it| it.fits(status))
    }
}

impl Match {
    fn read(value: &Value) -> Result<Self, String> {
        let Value::Mapping(parts) = value else {
            return Ok(Self { include: texts(value)?, exclude: Vec::new() });
        };
        let mut read = Self::default();
        for (name, value) in parts {
            match name.as_str() {
                Some("include") => read.include = texts(value)?,
                Some("exclude") => read.exclude = texts(value)?,
                _ => return Err("a condition has `include` and `exclude` only".to_owned()),
            }
        }
        Ok(read)
    }

    fn fits(&self, text: &str) -> bool {
        let any =
            |patterns: &[String]| patterns.iter().any(|it| glob(it.as_bytes(), text.as_bytes()));
        (self.include.is_empty() || any(&self.include)) && !any(&self.exclude)
    }
}

/// `*` is all but `/`, `**` is all, `?` is one but `/`.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|at| glob(rest, &text[at..])),
        [b'*', rest @ ..] => {
            let end = text.iter().position(|&byte| byte == b'/').unwrap_or(text.len());
            (0..=end).any(|at| glob(rest, &text[at..]))
        }
        [b'?', rest @ ..] => {
            matches!(text, [first, others @ ..] if *first != b'/' && glob(rest, others))
        }
        [want, rest @ ..] => {
            matches!(text, [first, others @ ..] if first == want && glob(rest, others))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(yaml: &str) -> Result<When, String> {
        let known = BTreeMap::from([("CI_REPO".to_owned(), "team/site".to_owned())]);
        When::read(Some(&serde_norway::from_str(yaml).expect("YAML")), &known)
    }

    #[test]
    fn one_of_several_conditions_must_hold_whole() {
        let when = when("[{event: pull_request}, {event: push, branch: main}]").expect("known");
        assert!(when.holds("push", "main", false));
        assert!(!when.holds("push", "next", false));
        assert!(when.holds("pull_request", "next", false));
        assert!(!when.may_hold("tag", "main"));
    }

    #[test]
    fn branches_are_patterns_with_exceptions() {
        let when = when("branch: {include: [main, release/*], exclude: [release/1.*]}");
        let when = when.expect("known");
        let holds = |branch| when.holds("push", branch, false);
        assert!(holds("main") && holds("release/2.0"));
        assert!(!holds("release/1.0") && !holds("release/2/0") && !holds("mai"));
        assert!(glob(b"**", b"a/b") && glob(b"a?c", b"abc") && !glob(b"a?c", b"a/c"));
    }

    #[test]
    fn a_step_runs_after_a_failure_only_when_it_says_so() {
        let always = when("status: [success, failure]").expect("known");
        assert!(always.holds("push", "main", true) && always.holds("push", "main", false));
        let sorry = when("status: failure").expect("known");
        assert!(sorry.holds("push", "main", true) && !sorry.holds("push", "main", false));
        assert!(!When::default().holds("push", "main", true));
    }

    #[test]
    fn a_condition_that_is_not_known_is_an_error() {
        assert!(when("path: 'src/*'").is_err());
        assert!(when("evaluate: 'len(CI_REPO) > 3'").is_err());
    }

    #[test]
    fn an_expression_is_one_condition_of_all() {
        let ours = r#"[{event: push, evaluate: 'CI_REPO == "team/site"'}]"#;
        let ours = when(ours).expect("known");
        assert!(ours.holds("push", "main", false) && !ours.may_hold("tag", "main"));
        let other = when(r#"evaluate: 'CI_REPO != "team/site"'"#).expect("known");
        assert!(!other.may_hold("push", "main"));
    }
}
