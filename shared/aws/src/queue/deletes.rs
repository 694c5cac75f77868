//! Deletes. Those that are requested while a call is in progress go together in the next call.
//! No delete waits for others, and ten deletes cost one call where they come together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use rdev_domain::ports::{PortError, PortResult, Receipt};
use tokio::sync::oneshot;

use super::error::{Call, is_stale, is_stale_code, port_error};

const PERMISSION: &str = "sqs:DeleteMessage";

/// The most messages in one call.
const MAX_BATCH: usize = 10;

/// The deletes of one queue.
#[derive(Debug)]
pub(super) struct Deletes {
    client: Client,
    url: String,
    waiting: Mutex<Vec<Waiting>>,
    /// The caller that has locked it makes the next call.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    receipt: String,
    reply: oneshot::Sender<PortResult<()>>,
}

/// Why one message of several was not deleted.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{code}: {message}")]
struct NotDeleted {
    code: String,
    message: String,
}

impl Deletes {
    pub(super) fn new(client: Client, url: String) -> Self {
        Self { client, url, waiting: Mutex::default(), turn: tokio::sync::Mutex::default() }
    }

    /// Deletes a message, alone or with others.
    pub(super) async fn delete(&self, receipt: &Receipt) -> PortResult<()> {
        let (reply, mut received) = oneshot::channel();
        self.waiting().push(Waiting { receipt: receipt.0.clone(), reply });
        loop {
            tokio::select! {
                biased;
                outcome = &mut received => return match outcome {
                    Ok(outcome) => outcome,
                    // The caller that had taken this delete was dropped during the call.
                    Err(_) => one(&self.client, &self.url, &receipt.0).await,
                },
                _turn = self.turn.lock() => {
                    let batch = self.next_batch();
                    self.send(batch).await;
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // Every change is one push or drain: after a panic elsewhere the list is consistent.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The deletes that have waited longest, without those whose callers were dropped.
    fn next_batch(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.retain(|one| !one.reply.is_closed());
        let many = waiting.len().min(MAX_BATCH);
        waiting.drain(..many).collect()
    }

    async fn send(&self, mut batch: Vec<Waiting>) {
        if batch.len() > 1 {
            return self.send_together(batch).await;
        }
        // The list is empty if the previous call has included this delete.
        let Some(Waiting { receipt, reply }) = batch.pop() else { return };
        // The caller may have been dropped: then the result is not needed.
        let _ = reply.send(one(&self.client, &self.url, &receipt).await);
    }

    async fn send_together(&self, batch: Vec<Waiting>) {
        let entries = batch.iter().enumerate().map(|(number, waiting)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .receipt_handle(&waiting.receipt)
                .build()
                .expect("id and receipt are its only required fields")
        });
        let call = self.client.delete_message_batch().queue_url(&self.url);
        let answer = call.set_entries(Some(entries.collect())).send().await;
        let call = Call::new(PERMISSION, &self.url);
        match answer {
            Ok(answer) => {
                for (number, waiting) in batch.into_iter().enumerate() {
                    let number = number.to_string();
                    let refused = answer.failed.iter().find(|failed| failed.id == number);
                    let outcome = match refused {
                        Some(failed) if !is_stale_code(&failed.code) => {
                            let message = failed.message.clone().unwrap_or_default();
                            let code = failed.code.clone();
                            Err(PortError::unavailable("the queue", NotDeleted { code, message }))
                        }
                        _ => Ok(()),
                    };
                    let _ = waiting.reply.send(outcome);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for waiting in batch {
                    let _ = waiting.reply.send(Err(port_error(call, Arc::clone(&error))));
                }
            }
        }
    }
}

/// Deletes one message.
pub(super) async fn one(client: &Client, url: &str, receipt: &str) -> PortResult<()> {
    match client.delete_message().queue_url(url).receipt_handle(receipt).send().await {
        Ok(_) => Ok(()),
        Err(error) if is_stale(&error) => Ok(()),
        Err(error) => Err(port_error(Call::new(PERMISSION, url), error)),
    }
}
