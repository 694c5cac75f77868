//! The repository's own words for agents: `CLAUDE.md`, `AGENTS.md`.
//!
//! Agents that are told to ignore a repository's settings, which may run commands, ignore these
//! texts too; so they are handed over with the prompt.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// What is read of them, in bytes: they travel in an argument, which may have 128 KiB.
const LONGEST: u64 = 64 * 1024;

/// The first of `names` that is a file at the top of the checkout, with a line that says what it is.
pub(super) fn read(checkout: &Path, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let path = checkout.join(name);
        // A link could show any file of this machine to the model.
        if !fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(&path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        Some(format!("Instructions of this repository ({name}):\n\n{}", text.trim()))
    })
}
