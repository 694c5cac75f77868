//! What the lock of a ticket says.

use git2::Oid;

/// How the contents of a ticket's lock begin.
const MAGIC: &str = "rdev ";

/// What a ticket's lock is for: the ref `target` moves to `to`, and the ticket goes from its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) target: String,
    pub(super) to: Oid,
    /// None in locks of versions that deleted the ticket last.
    pub(super) gone_from: Option<Oid>,
}

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stage {
    Preparing(Move),
    Landing(Move),
}

impl Stage {
    pub(super) fn text(&self) -> String {
        let (word, Move { target, to, gone_from }) = match self {
            Self::Preparing(move_of) => ("preparing", move_of),
            Self::Landing(move_of) => ("landing  ", move_of),
        };
        let value = gone_from.map(|value| format!(" {value}")).unwrap_or_default();
        format!("{MAGIC}{word} {to} {target}{value}\n")
    }

    pub(super) fn read(text: &str) -> Option<Self> {
        let mut words = text.strip_prefix(MAGIC)?.strip_suffix('\n')?.split_whitespace();
        let (stage, to, target) = (words.next()?, words.next()?, words.next()?);
        let gone_from = words.next().map(Oid::from_str).transpose().ok()?;
        let found = Move { target: target.to_owned(), to: Oid::from_str(to).ok()?, gone_from };
        match stage {
            "preparing" => Some(Self::Preparing(found)),
            "landing" => Some(Self::Landing(found)),
            _ => None,
        }
    }
}
