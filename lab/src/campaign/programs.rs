//! The programs of the product that a campaign runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// The checkout that this was compiled from.
pub(crate) fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Builds a program in the profile of this one, beside it.
///
/// # Errors
/// When it does not compile.
pub(crate) fn build(package: &str, program: &str, features: &[&str]) -> Result<PathBuf> {
    let release = !cfg!(debug_assertions);
    let mut command = cargo();
    command.args(["build", "--locked", "-p", package, "--bin", program]);
    if !features.is_empty() {
        command.args(["--features", &features.join(",")]);
    }
    if release {
        command.arg("--release");
    }
    super::note(format_args!("building {program}"));
    let status = command.current_dir(root()).stdin(Stdio::null()).status();
    if !status.context("cannot run cargo")?.success() {
        bail!("{program} does not compile");
    }
    let this = std::env::current_exe().context("cannot find this program")?;
    // Tests are one folder further down.
    let folder = this.ancestors().skip(1).find(|folder| folder.join(program).is_file());
    Ok(folder.with_context(|| format!("{program} is not beside {}", this.display()))?.join(program))
}

/// Cargo, without the variables that name this package: they would have others compiled anew.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}
