//! `rdev pipeline`.

use clap::Subcommand;
use rdev_domain::ids::ProjectId;
use rdev_domain::pipeline::PipelineNumber;

use super::values::Paging;

/// `rdev pipeline …`.
#[derive(Debug, Subcommand)]
pub(crate) enum Pipeline {
    /// List a project's pipelines, newest first.
    List {
        /// The project's name.
        project: ProjectId,
        /// Only pipelines of this branch.
        #[arg(long, value_name = "BRANCH")]
        branch: Option<String>,
        /// Only pipelines with this status.
        #[arg(long, value_name = "STATUS")]
        status: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a pipeline and its steps.
    Show {
        /// The project's name.
        project: ProjectId,
        /// The pipeline's number, or `latest`; default: the newest.
        number: Option<PipelineNumber>,
        /// Wait until the pipeline has ended; exit with 1 unless it succeeded.
        #[arg(short, long)]
        follow: bool,
        /// The pipeline of this commit; with --follow, wait until it exists.
        #[arg(long, value_name = "SHA", conflicts_with = "number")]
        commit: Option<String>,
    },
    /// Print the logs of a pipeline's steps.
    Logs {
        /// The project's name.
        project: ProjectId,
        /// The pipeline's number, or `latest`; default: the newest.
        number: Option<PipelineNumber>,
        /// Only the step with this name.
        #[arg(long, value_name = "NAME")]
        step: Option<String>,
    },
}
