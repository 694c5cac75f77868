//! Hooks that take as long as those of a forge that starts a program for each.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

/// How long each hook takes: a real Gitea needs 0.37 s for a push of one ref, whose three hooks
/// start its program.
pub const HOOK: Duration = Duration::from_millis(120);

/// Those that a push runs: `update` once for each ref, the others once.
const HOOKS: [&str; 3] = ["pre-receive", "update", "post-receive"];

/// The file in the repository with a line for each hook that has begun.
const RUNS: &str = "hook-runs";

/// Makes the hooks of a bare repository slow. What they did they still do, after the pause.
pub(crate) fn install(folder: &Path) -> io::Result<()> {
    let hooks = folder.join("hooks");
    fs::create_dir_all(&hooks)?;
    for hook in HOOKS {
        let path = hooks.join(hook);
        let before = fs::read_to_string(&path).unwrap_or_default();
        let (_, rest) = before.split_once('\n').unwrap_or_default();
        let pause = HOOK.as_secs_f64();
        // git's working folder for hooks is the repository.
        let slow = format!("#!/bin/sh\necho {hook} $1 >> {RUNS}\nsleep {pause}\n{rest}");
        fs::write(&path, slow)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    }
    Ok(())
}

/// The hooks that have begun, in that order.
pub(crate) fn runs(folder: &Path) -> Vec<String> {
    let lines = fs::read_to_string(folder.join(RUNS)).unwrap_or_default();
    lines.lines().map(|line| line.trim_end().to_owned()).collect()
}
