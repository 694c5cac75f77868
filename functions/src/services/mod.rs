//! What rdev does with a request or on a schedule, without HTTP: endpoints call it, and so can
//! whoever serves the same thing in another form.

pub mod build_pipeline;
pub mod creation;
pub mod domain_records;
pub mod error;
pub mod maintenance;
pub mod metrics;
pub mod project_rules;
pub mod projects;
mod provision;
pub mod readiness;
pub mod redrive;
pub mod remains;
pub mod repository_view;
pub mod task_view;
pub mod tasks;
pub mod templates;
