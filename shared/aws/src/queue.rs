//! The queue on SQS. It is a standard queue with the project's id as the message group, so that a
//! project with thousands of wake-ups does not delay the others. An agent may have a queue of its
//! own: then its wake-ups go there, and only the runners that receive from it get them.
//!
//! Nothing is exactly once: a retried call may send a wake-up twice, and a received message
//! whose answer was lost is visible again after its visibility timeout. Both do no harm:
//! messages are hints.

mod deletes;
mod error;

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_sqs::Client;
use aws_sdk_sqs::config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::MessageSystemAttributeName::{ApproximateReceiveCount, SentTimestamp};
use aws_sdk_sqs::types::QueueAttributeName::{
    self, ApproximateNumberOfMessages, ApproximateNumberOfMessagesDelayed,
    ApproximateNumberOfMessagesNotVisible,
};
use aws_sdk_sqs::types::{Message, MessageSystemAttributeName};
use futures_util::future::try_join_all;
use rdev_domain::Invalid;
use rdev_domain::outbox::MAX_DELAY;
use rdev_domain::ports::{DeadMessage, PortResult, Queue, QueueStats, Receipt, ReceivedMessage};
use rdev_domain::time::Timestamp;
use rdev_domain::wake_up::WakeUp;

use deletes::Deletes;
use error::{Call, is_stale, port_error};

use crate::settings::Settings;

/// The longest wait of one [`Queue::receive`].
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The longest time that SQS hides a message.
const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

/// How much longer than its wait a long poll may take before it is a time-out.
const POLL_GRACE: Duration = Duration::from_secs(10);

/// The most messages in one call.
const MAX_BATCH: u32 = 10;

/// Wake-ups in an SQS queue. The queue itself has the visibility timeout, and the number of
/// receives after which a message is a dead letter.
#[derive(Debug)]
pub struct SqsQueue {
    client: Client,
    settings: Settings,
    /// The queue that this program receives from.
    url: String,
    deletes: Deletes,
}

impl SqsQueue {
    /// The queues of these settings. Without the URL of a dead-letter queue no dead letters are
    /// read or counted.
    pub fn new(client: Client, settings: Settings) -> Self {
        let url = settings.own_queue().to_owned();
        let deletes = Deletes::new(client.clone(), url.clone());
        Self { client, settings, url, deletes }
    }

    /// Receives up to `limit` messages. All tries together have the time of one: the caller
    /// polls again anyway.
    async fn poll(
        &self,
        url: &str,
        limit: u32,
        wait: Duration,
        attributes: &[MessageSystemAttributeName],
    ) -> PortResult<Vec<Message>> {
        let time = wait + POLL_GRACE;
        let timeouts =
            TimeoutConfig::builder().operation_attempt_timeout(time).operation_timeout(time);
        let answer = self
            .client
            .receive_message()
            .queue_url(url)
            .max_number_of_messages(saturating(limit))
            .wait_time_seconds(seconds(wait))
            .set_message_system_attribute_names(Some(attributes.to_vec()))
            .customize()
            .config_override(aws_sdk_sqs::Config::builder().timeout_config(timeouts.build()))
            .send()
            .await
            .map_err(|error| port_error(Call::new("sqs:ReceiveMessage", url), error))?;
        Ok(answer.messages.unwrap_or_default())
    }

    async fn count(&self, url: &str) -> PortResult<QueueStats> {
        let names = [
            ApproximateNumberOfMessages,
            ApproximateNumberOfMessagesNotVisible,
            ApproximateNumberOfMessagesDelayed,
        ];
        let answer = self
            .client
            .get_queue_attributes()
            .queue_url(url)
            .set_attribute_names(Some(names.to_vec()))
            .send()
            .await
            .map_err(|error| port_error(Call::new("sqs:GetQueueAttributes", url), error))?;
        let count = |name: QueueAttributeName| {
            let text = answer.attributes.as_ref().and_then(|all| all.get(&name));
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        Ok(QueueStats {
            visible: count(ApproximateNumberOfMessages),
            in_flight: count(ApproximateNumberOfMessagesNotVisible),
            delayed: count(ApproximateNumberOfMessagesDelayed),
            dead: 0,
        })
    }
}

#[async_trait]
impl Queue for SqsQueue {
    async fn send(&self, wake_up: &WakeUp, delay: Duration) -> PortResult<()> {
        if delay > MAX_DELAY {
            return Err(Invalid::new("delay", "must be at most 15 minutes").into());
        }
        let url = self.settings.queue_of(wake_up.agent);
        self.client
            .send_message()
            .queue_url(url)
            .message_body(wake_up.encode())
            .message_group_id(wake_up.project_id.as_str())
            .delay_seconds(seconds(delay))
            .send()
            .await
            .map_err(|error| port_error(Call::new("sqs:SendMessage", url), error))?;
        Ok(())
    }

    async fn receive(&self, wait: Duration) -> PortResult<Option<ReceivedMessage>> {
        let wait = wait.min(MAX_WAIT);
        let mut messages = self.poll(&self.url, 1, wait, &[ApproximateReceiveCount]).await?;
        let Some(message) = messages.pop() else { return Ok(None) };
        let receive_count = number(&message, &ApproximateReceiveCount).max(1);
        Ok(Some(ReceivedMessage {
            body: WakeUp::decode(message.body.as_deref().unwrap_or_default()),
            receive_count: u32::try_from(receive_count).unwrap_or(u32::MAX),
            receipt: Receipt(message.receipt_handle.unwrap_or_default()),
        }))
    }

    async fn delete(&self, receipt: &Receipt) -> PortResult<()> {
        self.deletes.delete(receipt).await
    }

    async fn set_visibility(&self, receipt: &Receipt, after: Duration) -> PortResult<()> {
        let changed = self
            .client
            .change_message_visibility()
            .queue_url(&self.url)
            .receipt_handle(&receipt.0)
            .visibility_timeout(seconds(after.min(MAX_VISIBILITY)))
            .send()
            .await;
        match changed {
            Ok(_) => Ok(()),
            Err(error) if is_stale(&error) => Ok(()),
            Err(error) => {
                Err(port_error(Call::new("sqs:ChangeMessageVisibility", &self.url), error))
            }
        }
    }

    async fn receive_dead(&self, limit: u32) -> PortResult<Vec<DeadMessage>> {
        let Some(url) = &self.settings.dead_queue_url else { return Ok(Vec::new()) };
        let attributes = [ApproximateReceiveCount, SentTimestamp];
        let mut dead: Vec<DeadMessage> = Vec::new();
        // A poll without a wait asks only some of SQS's servers, and may find no message where
        // there is one. So the first poll waits. A message that it misses is found later.
        let mut wait = Duration::from_secs(1);
        loop {
            let missing = limit - u32::try_from(dead.len()).unwrap_or(limit).min(limit);
            if missing == 0 {
                return Ok(dead);
            }
            let messages = match self.poll(url, missing.min(MAX_BATCH), wait, &attributes).await {
                Ok(messages) => messages,
                // The messages that were received matter more to the caller than the error.
                Err(_) if !dead.is_empty() => return Ok(dead),
                Err(error) => return Err(error),
            };
            if messages.is_empty() {
                return Ok(dead);
            }
            dead.extend(messages.into_iter().map(dead_message));
            wait = Duration::ZERO;
        }
    }

    async fn delete_dead(&self, receipt: &Receipt) -> PortResult<()> {
        match &self.settings.dead_queue_url {
            Some(url) => deletes::one(&self.client, url, &receipt.0).await,
            None => Ok(()),
        }
    }

    async fn stats(&self) -> PortResult<QueueStats> {
        let live = try_join_all(self.settings.queues().into_iter().map(|url| self.count(url)));
        let dead = async {
            match &self.settings.dead_queue_url {
                Some(url) => self.count(url).await,
                None => Ok(QueueStats::default()),
            }
        };
        let (live, dead) = tokio::try_join!(live, dead)?;
        let sum = |count: fn(&QueueStats) -> u64| -> u64 { live.iter().map(count).sum() };
        Ok(QueueStats {
            visible: sum(|one| one.visible),
            in_flight: sum(|one| one.in_flight),
            delayed: sum(|one| one.delayed),
            dead: dead.visible + dead.in_flight + dead.delayed,
        })
    }
}

fn dead_message(message: Message) -> DeadMessage {
    // The dead-letter queue continues the count. It includes this receive.
    let receives = number(&message, &ApproximateReceiveCount).saturating_sub(1);
    let sent_at = number(&message, &SentTimestamp);
    DeadMessage {
        receive_count: u32::try_from(receives).unwrap_or(u32::MAX),
        sent_at: Timestamp::from_millis(i64::try_from(sent_at).unwrap_or(i64::MAX)),
        receipt: Receipt(message.receipt_handle.unwrap_or_default()),
        body: message.body.unwrap_or_default(),
    }
}

fn number(message: &Message, name: &MessageSystemAttributeName) -> u64 {
    let text = message.attributes.as_ref().and_then(|all| all.get(name));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whole seconds, rounded up: a delayed message must not become visible too early.
fn seconds(time: Duration) -> i32 {
    saturating(time.as_millis().div_ceil(1000))
}

fn saturating(number: impl TryInto<i32>) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}
