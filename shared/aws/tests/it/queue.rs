//! The conformance suite of the queue, on SQS.

use std::sync::Arc;

use rdev_aws::{Settings, SqsQueue};
use rdev_domain::spec::AgentName;
use rdev_testkit::conformance::queue::{self, QueueSettings, QueueUnderTest};
use rdev_testkit::tools::trial::Trial;

use crate::scene::{account, queues, sdk};

/// The cases of the conformance suite.
pub(crate) fn conformance() -> Vec<Trial> {
    queue::trials(async |settings: QueueSettings| {
        let client = aws_sdk_sqs::Client::new(&sdk(&account()?).await);
        let queues = queues(&client, settings.visibility.as_secs(), settings.max_receives).await;
        let url = queues.queue_url.clone();
        let of_codex = Settings { queue_agent: Some(AgentName::Codex), ..queues.clone() };
        Ok(QueueUnderTest {
            queue: Arc::new(SqsQueue::new(client.clone(), queues)),
            of_codex: Some(Arc::new(SqsQueue::new(client.clone(), of_codex))),
            send_raw: Arc::new(move |body| {
                let send = client.send_message().queue_url(&url).message_body(body);
                Box::pin(async move {
                    send.send().await.expect("it is sent");
                })
            }),
            stale_receipts_do_nothing: false,
            keep: Box::new(()),
        })
    })
}
