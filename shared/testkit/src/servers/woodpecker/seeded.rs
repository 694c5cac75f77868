//! What a test says of pipelines that did not run here.

use super::WoodpeckerServer;
use super::pipeline::change;

impl WoodpeckerServer {
    /// Gives a pipeline the message of its commit. Panics without that pipeline.
    pub fn set_message(&self, repository: u64, number: u64, message: &str) {
        let changed = change(&self.shared, repository, number, |pipeline| {
            message.clone_into(&mut pipeline.origin.message);
        });
        changed.expect("that pipeline");
    }
}
