//! What this process counts and measures, by its name in `/metrics`.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

pub(crate) const ENQUEUED: &str = "rdev_tasks_enqueued_total";
const CLAIMED: &str = "rdev_tasks_claimed_total";
pub(crate) const COMPLETED: &str = "rdev_tasks_completed_total";
const FAILED: &str = "rdev_tasks_failed_total";
const PHASE: &str = "rdev_phase_seconds";

/// Seconds; a phase lasts from a warm checkout's milliseconds to two hours.
const PHASE_BUCKETS: [f64; 14] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0];

/// The recorder of this program's metrics, which a main function installs before anything is
/// counted: phases are a histogram with fixed buckets.
pub fn prometheus() -> PrometheusBuilder {
    PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Full(PHASE.to_owned()), &PHASE_BUCKETS)
        .expect("there are buckets")
}

/// Describes the counters to the recorder, if there is one.
pub(crate) fn describe() {
    metrics::describe_counter!(ENQUEUED, "Tasks that were accepted.");
    metrics::describe_counter!(CLAIMED, "Claims of tasks by workers.");
    metrics::describe_counter!(COMPLETED, "Tasks that ended well or were cancelled, by outcome.");
    metrics::describe_counter!(FAILED, "Attempts that failed, by class.");
    metrics::describe_histogram!(PHASE, "Seconds that each phase of a task took.");
    metrics::counter!(ENQUEUED).increment(0);
}
