//! When a repository is looked through for refs that nobody needs any more: a file beside its
//! mirror has the time of the next look, in milliseconds since 1970.
//!
//! Whoever leaves a ref brings the look forward. A fetch before that time asks the store nothing.
//! Without a file the look is due: refs whose runner is gone for ever are found too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rdev_domain::chain;
use rdev_domain::git_url::GitUrl;
use rdev_domain::time::Timestamp;
use tempfile::NamedTempFile;
use tracing::debug;

use crate::git;

/// The time between two looks if nothing else is known.
pub(super) const SELDOM: Duration = Duration::from_secs(24 * 60 * 60);

/// The time until a look that may find something: a task is about to end, or there were too many
/// refs for one look.
pub(super) const SOON: Duration = Duration::from_secs(60 * 60);

/// Whether the repository is to be looked through.
pub(super) fn is_due(cache: &Path, url: &GitUrl, now: Timestamp) -> bool {
    next(cache, url).is_none_or(|next| next <= now)
}

/// The next look is at `at`, whatever was planned before.
pub(super) fn plan(cache: &Path, url: &GitUrl, at: Timestamp) {
    if let Err(error) = write(cache, url, at) {
        // Then the look is due at once, which costs more reads and loses nothing.
        debug!(error = chain(&error), "the next look for left-over refs was not planned");
    }
}

/// The next look is at `at` at the latest.
pub(super) fn bring_forward(cache: &Path, url: &GitUrl, at: Timestamp) {
    if next(cache, url).is_some_and(|next| next > at) {
        plan(cache, url, at);
    }
}

fn next(cache: &Path, url: &GitUrl) -> Option<Timestamp> {
    let text = fs::read_to_string(file(cache, url)).ok()?;
    text.trim().parse().ok().map(Timestamp::from_millis)
}

fn write(cache: &Path, url: &GitUrl, at: Timestamp) -> io::Result<()> {
    fs::create_dir_all(cache)?;
    let whole = NamedTempFile::new_in(cache)?;
    fs::write(whole.path(), at.as_millis().to_string())?;
    whole.persist(file(cache, url))?;
    Ok(())
}

fn file(cache: &Path, url: &GitUrl) -> PathBuf {
    cache.join(format!("{}.look", git::cache_name(url)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(name: &str) -> GitUrl {
        format!("https://git.example.com/team/{name}.git").parse().expect("a URL")
    }

    #[test]
    fn a_repository_is_looked_through_first_and_then_when_it_was_planned() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path().join("cache");
        let (site, other) = (url("site"), url("other"));
        let at = |minutes: u64| {
            Timestamp::from_millis(2_000_000_000_000).plus(Duration::from_secs(60 * minutes))
        };
        bring_forward(&cache, &site, at(5));
        assert!(is_due(&cache, &site, at(0)), "nobody has looked yet");
        plan(&cache, &site, at(100));
        assert!(!is_due(&cache, &site, at(99)) && is_due(&cache, &site, at(100)));
        assert!(is_due(&cache, &other, at(0)), "it is another repository");
        bring_forward(&cache, &site, at(200));
        assert!(is_due(&cache, &site, at(100)), "never later");
        bring_forward(&cache, &site, at(50));
        assert!(!is_due(&cache, &site, at(49)) && is_due(&cache, &site, at(50)));
        fs::write(file(&cache, &site), "garbage").expect("written");
        assert!(is_due(&cache, &site, at(0)), "what cannot be read costs a look");
    }
}
