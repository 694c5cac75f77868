//! What a test says of pipelines that did not run here.

use super::WoodpeckerServer;
use super::pipeline::change;

impl WoodpeckerServer {
    /// Gives a pipeline the message of its commit. Panics without that pipeline.
    pub fn set_message(&self, repository: u64, number: u64, message: &str) {
        let changed = change(&self.shared, repository, number, |pipeline| {
            message.clone_into(&mut pipeline.message);
        });
        changed.expect("that pipeline");
    }

    /// Lets the last step of a pipeline have failed before its command ran: with an exit status of
    /// 0, without a log, and with this reason, which its workflow repeats. Panics without that
    /// pipeline.
    pub fn fail_before_command(&self, repository: u64, number: u64, why: &str) {
        self.set_status(repository, number, "failure");
        let changed = change(&self.shared, repository, number, |pipeline| {
            let workflow = pipeline.workflows.last_mut().expect("a workflow");
            workflow.error = Some(why.to_owned());
            let step = workflow.steps.last_mut().expect("a step");
            step.error = Some(why.to_owned());
            step.lines.clear();
        });
        changed.expect("that pipeline");
    }
}
