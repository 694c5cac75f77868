//! When a repository is looked through next for refs that nobody needs any more: a file beside its
//! mirror has the time, in milliseconds since 1970.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rdev_domain::chain;
use rdev_domain::git_url::GitUrl;
use rdev_domain::time::Timestamp;
use tempfile::NamedTempFile;
use tracing::debug;

use crate::git;

/// The next look is at `at`, whatever was planned before.
pub(super) fn plan(cache: &Path, url: &GitUrl, at: Timestamp) {
    if let Err(error) = write(cache, url, at) {
        // Then the look is due at once, which costs more reads and loses nothing.
        debug!(error = chain(&error), "the next look for left-over refs was not planned");
    }
}

/// When the next look is. `None`: nobody has planned one, or what is written cannot be read.
pub(super) fn next(cache: &Path, url: &GitUrl) -> Option<Timestamp> {
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

    #[test]
    fn the_next_look_is_the_planned_one_and_what_cannot_be_read_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = folder.path().join("cache");
        let url = |name: &str| -> GitUrl {
            format!("https://git.example.com/team/{name}.git").parse().expect("a URL")
        };
        let (site, other) = (url("site"), url("other"));
        assert_eq!(next(&cache, &site), None);
        for millis in [2_000_000_000_000, 1_000] {
            plan(&cache, &site, Timestamp::from_millis(millis));
            assert_eq!(next(&cache, &site), Some(Timestamp::from_millis(millis)));
        }
        assert_eq!(next(&cache, &other), None, "it is another repository");
        fs::write(file(&cache, &site), "garbage").expect("written");
        assert_eq!(next(&cache, &site), None);
    }
}
