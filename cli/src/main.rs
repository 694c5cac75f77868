//! The program `rdev`.

use std::process::ExitCode;

fn main() -> ExitCode {
    rdev::main()
}
