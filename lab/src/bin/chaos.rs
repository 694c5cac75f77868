//! The campaign: `cargo run -p rdev-lab --release --bin chaos -- --help`.

// What it prints is its result.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rdev_lab::campaign::{Options, run, serve_git};

/// The exit code when the campaign itself could not be done.
const BROKEN_OFF: u8 = 2;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    // It starts itself as a git server that can be killed. The last argument marks the process.
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [_, "git-server", folder, _mark] => serve_git(Path::new(folder)).map(|()| true),
        _ => run(&Options::parse()),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::from(BROKEN_OFF)
        }
    }
}
