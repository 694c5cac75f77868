//! The repository's instructions for agents: `CLAUDE.md`, `AGENTS.md`.
//!
//! The runner makes agents ignore a repository's settings, because these may run commands. Agents
//! then ignore these texts too, so the runner passes them on with the prompt.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

/// The number of bytes that are read: an argument has at most 128 KiB.
const LONGEST: u64 = 64 * 1024;

/// The text of the first of `names` that is a file at the top of the checkout, with a heading.
pub(super) fn read(checkout: &Path, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        let path = checkout.join(name);
        // A link could send any file of this machine to the model.
        if !fs::symlink_metadata(&path).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(&path).ok()?.take(LONGEST).read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).replace('\0', "");
        Some(format!("Instructions of this repository ({name}):\n\n{}", text.trim()))
    })
}
