//! The adapters against a real SQS and DynamoDB protocol server, on loopback. Each case of the
//! conformance suites is a test of its own.

mod check;
mod faults;
mod queue;
mod scene;
mod store;

use std::process::ExitCode;

use rdev_testkit::conformance::AT_ONCE;
use rdev_testkit::tools::trial;

fn main() -> ExitCode {
    let all = [
        store::conformance(),
        queue::conformance(),
        check::trials(),
        faults::trials(),
        store::answers::trials(),
        store::calls::trials(),
        store::faults::trials(),
        store::indexes::trials(),
        store::scale::trials(),
    ];
    trial::run(Some(AT_ONCE), all)
}
