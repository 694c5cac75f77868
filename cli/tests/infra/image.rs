//! `infra/runner/Dockerfile`. No image is built here: what can be held to account without
//! Docker is its cargo lines, run on what the build context has, and the agents' versions.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rdev_testkit::tools::agents::Cli;

use crate::infra::tools::{root, text};

rdev_testkit::trials! {
    fn the_images_agents_are_those_that_the_runner_was_written_for;
    fn the_image_has_a_user_of_its_own_reaps_and_tells_how_it_is;
    fn the_images_own_cargo_lines_build_the_runner_from_the_files_of_its_context;
}

fn dockerfile() -> String {
    fs::read_to_string(root().join("infra/runner/Dockerfile")).expect("a file")
}

fn the_images_agents_are_those_that_the_runner_was_written_for() {
    let dockerfile = dockerfile();
    for cli in Cli::ALL {
        let line = format!("ARG {}_VERSION={}\n", cli.name().to_uppercase(), cli.version());
        assert!(dockerfile.contains(&line), "{line}");
    }
}

fn the_image_has_a_user_of_its_own_reaps_and_tells_how_it_is() {
    let dockerfile = dockerfile();
    let last = dockerfile.rsplit("\nFROM ").next().expect("a stage");
    for line in [
        "USER 10001:10001",
        "ENTRYPOINT [\"/usr/bin/tini\", \"--\", \"/usr/local/bin/rdev-runner\"]",
        "VOLUME [\"/var/lib/rdev\", \"/tmp\"]",
    ] {
        assert!(last.lines().any(|found| found == line), "{line}");
    }
    assert!(last.contains("HEALTHCHECK") && last.contains("http://127.0.0.1:8080/live"));
}

fn the_images_own_cargo_lines_build_the_runner_from_the_files_of_its_context() {
    let dockerfile = dockerfile();
    let lines: Vec<&str> = dockerfile
        .lines()
        .map(|line| line.trim().trim_start_matches("RUN ").trim_end_matches('\\').trim())
        .filter(|line| line.starts_with("cargo "))
        .collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    // The same folder each time, with the files' own times: what has not changed is not built
    // again.
    let context = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-context");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-target");
    let mut kept = Vec::new();
    for name in included() {
        copy(&root().join(&name), &context.join(&name), &mut kept);
    }
    prune(&context, &kept);
    for line in lines {
        text(
            Command::new("sh")
                .args(["-c", &format!("cd \"$CONTEXT\" && {line}")])
                .env("CONTEXT", &context)
                .env("CARGO_TARGET_DIR", &target)
                // Whether it builds is the question, not how fast it is then.
                .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
                .env("CARGO_PROFILE_RELEASE_DEBUG", "0"),
        );
    }
    assert!(target.join("release/rdev-runner").is_file());
}

/// What `.dockerignore` lets through.
fn included() -> Vec<String> {
    let ignore = fs::read_to_string(root().join(".dockerignore")).expect("a file");
    assert!(ignore.lines().any(|line| line == "*"), "all else is left out");
    ignore.lines().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect()
}

fn copy(from: &Path, to: &Path, kept: &mut Vec<PathBuf>) {
    kept.push(to.to_owned());
    if from.is_dir() {
        fs::create_dir_all(to).expect("a folder");
        for entry in fs::read_dir(from).expect("a folder") {
            let name = entry.expect("an entry").file_name();
            if name != "target" {
                copy(&from.join(&name), &to.join(&name), kept);
            }
        }
        return;
    }
    let time = fs::metadata(from).and_then(|metadata| metadata.modified()).expect("a time");
    fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    fs::copy(from, to).expect("copied");
    let copy = File::options().write(true).open(to).expect("opened");
    copy.set_modified(time).expect("its time is set");
}

/// Removes what an earlier run has copied and is not there any more.
fn prune(folder: &Path, kept: &[PathBuf]) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match (kept.contains(&path), path.is_dir()) {
            (true, true) => prune(&path, kept),
            (true, false) => {}
            (false, true) => fs::remove_dir_all(&path).expect("removed"),
            (false, false) => fs::remove_file(&path).expect("removed"),
        }
    }
}
