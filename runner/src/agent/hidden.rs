//! Hides files of the checkout from an agent while it runs.
//!
//! For settings in the repository that an agent would apply and that no option switches off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The files that were moved away: the original path and the hidden one.
#[derive(Debug)]
#[must_use = "hidden files must be restored"]
pub(super) struct Hidden(Vec<(PathBuf, PathBuf)>);

/// Moves each of `names` that exists from `checkout` to a folder below `attempt_dir`.
pub(super) fn hide(checkout: &Path, attempt_dir: &Path, names: &[&str]) -> Result<Hidden> {
    let aside = attempt_dir.join("hidden");
    let mut moved = Vec::new();
    for name in names {
        let (from, to) = (checkout.join(name), aside.join(name));
        if fs::symlink_metadata(&from).is_err() {
            continue;
        }
        let rename = || {
            fs::create_dir_all(&aside)?;
            fs::rename(&from, &to)
        };
        rename().with_context(|| format!("cannot hide {name}"))?;
        moved.push((from, to));
    }
    Ok(Hidden(moved))
}

impl Hidden {
    /// Moves everything back. Files that the agent has written meanwhile stay as they are.
    pub(super) fn restore(self) -> Result<()> {
        for (original, aside) in self.0 {
            merge(&aside, &original)
                .with_context(|| format!("cannot restore {}", original.display()))?;
        }
        Ok(())
    }
}

fn merge(aside: &Path, original: &Path) -> io::Result<()> {
    let Ok(there) = fs::symlink_metadata(original) else {
        return fs::rename(aside, original);
    };
    if there.is_dir() && fs::symlink_metadata(aside)?.is_dir() {
        for entry in fs::read_dir(aside)? {
            let name = entry?.file_name();
            merge(&aside.join(&name), &original.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_files_come_back_and_what_the_agent_wrote_stays() {
        let attempt = tempfile::tempdir().expect("a folder");
        let checkout = attempt.path().join("checkout");
        fs::create_dir_all(checkout.join("dir/inner")).expect("a folder");
        for (name, text) in [("dir/a", "old a"), ("dir/inner/b", "old b"), ("file", "old")] {
            fs::write(checkout.join(name), text).expect("a file");
        }
        let hidden = hide(&checkout, attempt.path(), &["dir", "file", "absent"]).expect("hidden");
        assert_eq!(fs::read_dir(&checkout).expect("a folder").count(), 0);
        fs::create_dir(checkout.join("dir")).expect("a folder");
        fs::write(checkout.join("dir/a"), "new a").expect("a file");
        hidden.restore().expect("restored");
        let read = |name: &str| fs::read_to_string(checkout.join(name)).expect("a file");
        assert_eq!(
            (read("dir/a"), read("dir/inner/b"), read("file")),
            ("new a".to_owned(), "old b".to_owned(), "old".to_owned())
        );
    }
}
