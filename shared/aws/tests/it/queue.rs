//! The conformance suite of the queue, on SQS.

use std::sync::Arc;

use rdev_aws::SqsQueue;
use rdev_testkit::conformance::queue::{
    QueueSettings, QueueUnderTest, exercise_queue, queue_cases,
};
use rdev_testkit::servers::emulator::Emulator;

use crate::scene::{account, queues, sdk};

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_keeps_its_promises() {
    let Ok(emulator) = Emulator::shared() else {
        account();
        return;
    };
    let open = |settings: QueueSettings| async move {
        let client = aws_sdk_sqs::Client::new(&sdk(&emulator.account()).await);
        let (url, dead) =
            queues(&client, settings.visibility.as_secs(), settings.max_receives).await;
        let queue = SqsQueue::new(client.clone(), url.clone(), Some(dead));
        QueueUnderTest {
            queue: Arc::new(queue),
            send_raw: Arc::new(move |body| {
                let send = client.send_message().queue_url(&url).message_body(body);
                Box::pin(async move {
                    send.send().await.expect("it is sent");
                })
            }),
            stale_receipts_do_nothing: false,
            keep: Box::new(()),
        }
    };
    let passed = exercise_queue(open).await.expect("every case holds");
    // All of them, as on SQLite.
    assert_eq!((passed.ran(), passed.left_out()), (queue_cases().len(), &[][..]));
}
