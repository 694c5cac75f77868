//! What has another name on a test server than in the record: ids, commits, URLs, people.

use std::collections::BTreeMap;

/// A part of a URL or a path that a number follows, and whose number that is.
const NUMBERED: [(&str, &str); 9] = [
    ("/repositories/", "repository"),
    ("forge_remote_id=", "repository"),
    ("/hooks/", "hook"),
    ("/issues/comments/", "comment"),
    ("#issuecomment-", "comment"),
    ("/labels/", "label"),
    ("/releases/", "release"),
    ("/reviews/", "review"),
    ("/api/repos/", "ci repository"),
];

/// How long a commit's id is, and how long when it is shortened.
const LONG: usize = 40;
const SHORT: usize = 7;

/// Pairs of what was recorded and what is its counterpart here. Both sides are learnt as the
/// answers come; what was learnt holds from then on, in both directions.
#[derive(Debug, Default)]
pub(crate) struct Names {
    /// Texts, wherever they are in another text.
    texts: Vec<(String, String)>,
    ours: BTreeMap<(&'static str, String), String>,
    recorded: BTreeMap<(&'static str, String), String>,
}

impl Names {
    /// A text that stands for another one everywhere.
    pub(crate) fn text(&mut self, recorded: &str, ours: &str) {
        self.texts.push((recorded.to_owned(), ours.to_owned()));
    }

    /// Learns a pair; what it contradicts, if it does.
    pub(crate) fn learn(
        &mut self,
        kind: &'static str,
        recorded: &str,
        ours: &str,
    ) -> Result<(), String> {
        let known = self.ours.entry((kind, recorded.to_owned())).or_insert_with(|| ours.to_owned());
        if known != ours {
            return Err(format!("{kind} {recorded} was {known} before, and now is {ours}"));
        }
        let known = self.recorded.entry((kind, ours.to_owned()));
        let known = known.or_insert_with(|| recorded.to_owned());
        if known != recorded {
            return Err(format!("{kind} {ours} is {known} and {recorded} of the record"));
        }
        Ok(())
    }

    /// A recorded number of that kind, as it is here.
    pub(crate) fn number(&self, kind: &'static str, recorded: u64) -> u64 {
        let known = self.ours.get(&(kind, recorded.to_string()));
        known.and_then(|number| number.parse().ok()).unwrap_or(recorded)
    }

    /// A recorded text as it is here.
    pub(crate) fn to_ours(&self, text: &str) -> String {
        let swap = |text: String, (recorded, ours): &(String, String)| text.replace(recorded, ours);
        let text = self.texts.iter().fold(text.to_owned(), swap);
        renamed(&text, &self.ours)
    }

    /// A text from here as the record has it.
    pub(crate) fn to_recorded(&self, text: &str) -> String {
        let text = renamed(text, &self.recorded);
        self.texts.iter().fold(text, |text, (recorded, ours)| text.replace(ours, recorded))
    }

    /// The same for a text with shortened ids of commits.
    pub(crate) fn shortened_to_recorded(&self, text: &str) -> String {
        let commits = self.recorded.iter().filter(|((kind, _), _)| *kind == "commit");
        let short = commits.fold(text.to_owned(), |text, ((_, ours), recorded)| {
            text.replace(&ours[..SHORT], &recorded[..SHORT])
        });
        self.to_recorded(&short)
    }
}

/// Whether a text is the id of a commit, a tree or a file.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() == LONG && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A text with its commits, pictures and numbers exchanged for those of the other side.
fn renamed(text: &str, known: &BTreeMap<(&'static str, String), String>) -> String {
    let other = |kind: &'static str, name: &str| known.get(&(kind, name.to_owned())).cloned();
    let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let mut text = replaced(text, "", is_hex, |run| match run.len() {
        LONG => other("commit", run),
        _ => None,
    });
    text = replaced(&text, "/avatars/", is_hex, |run| other("picture", run));
    for (before, kind) in NUMBERED {
        text = replaced(&text, before, |c| c.is_ascii_digit(), |run| other(kind, run));
    }
    // `<user>+<name>@noreply…`.
    if let Some((id, rest)) = text.split_once('+').filter(|(_, rest)| rest.contains("@noreply."))
        && let Some(id) = other("user", id)
    {
        text = format!("{id}+{rest}");
    }
    // `/logs/<pipeline>/<step>`.
    if let Some((start, step)) = text.rsplit_once('/').filter(|(start, _)| start.contains("/logs/"))
        && let Some(step) = other("step", step)
    {
        text = format!("{start}/{step}");
    }
    text
}

/// A text in which each longest run of such characters after `before` is exchanged.
fn replaced(
    text: &str,
    before: &str,
    part: impl Fn(char) -> bool,
    exchange: impl Fn(&str) -> Option<String>,
) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let starts = if before.is_empty() {
            rest.find(&part)
        } else {
            rest.find(before).map(|at| at + before.len())
        };
        let Some(start) = starts else { break };
        out.push_str(&rest[..start]);
        let run = &rest[start..];
        let end = run.find(|c| !part(c)).unwrap_or(run.len());
        out.push_str(exchange(&run[..end]).as_deref().unwrap_or(&run[..end]));
        rest = &run[end..];
    }
    out.push_str(rest);
    out
}
