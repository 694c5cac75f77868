//! Deletes: those that are asked for while one is under way go together in the next call.
//! Nobody waits for company, and nobody pays for ten calls where one does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;
use rdev_domain::ports::{PortError, PortResult, Receipt};
use tokio::sync::oneshot;

use super::failed::{Call, failed, is_stale, is_stale_code};

const PERMISSION: &str = "sqs:DeleteMessage";

/// The most messages of one call.
const BATCH: usize = 10;

/// The deletes of one queue.
#[derive(Debug)]
pub(super) struct Deletes {
    client: Client,
    url: String,
    waiting: Mutex<Vec<Waiting>>,
    /// Who holds it makes the next call.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Waiting {
    receipt: String,
    tell: oneshot::Sender<PortResult<()>>,
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
        let (tell, mut told) = oneshot::channel();
        self.waiting().push(Waiting { receipt: receipt.0.clone(), tell });
        loop {
            tokio::select! {
                biased;
                outcome = &mut told => return match outcome {
                    Ok(outcome) => outcome,
                    // Who had it in hand was given up in the middle of the call.
                    Err(_) => one(&self.client, &self.url, &receipt.0).await,
                },
                _turn = self.turn.lock() => {
                    let batch = self.next();
                    self.send(batch).await;
                }
            }
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Waiting>> {
        // Each change is one push or drain; a panic elsewhere leaves it whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who have waited longest, and have not been given up.
    fn next(&self) -> Vec<Waiting> {
        let mut waiting = self.waiting();
        waiting.retain(|one| !one.tell.is_closed());
        let many = waiting.len().min(BATCH);
        waiting.drain(..many).collect()
    }

    async fn send(&self, mut batch: Vec<Waiting>) {
        if batch.len() > 1 {
            return self.send_together(batch).await;
        }
        // None, when the one who got the turn had just been served.
        let Some(Waiting { receipt, tell }) = batch.pop() else { return };
        // Nobody listens any more: then nobody needs to know.
        let _ = tell.send(one(&self.client, &self.url, &receipt).await);
    }

    async fn send_together(&self, batch: Vec<Waiting>) {
        let entries = batch.iter().enumerate().map(|(number, waiting)| {
            DeleteMessageBatchRequestEntry::builder()
                .id(number.to_string())
                .receipt_handle(&waiting.receipt)
                .build()
                .expect("an id and a receipt are all that it needs")
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
                    let _ = waiting.tell.send(outcome);
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for waiting in batch {
                    let _ = waiting.tell.send(Err(failed(call, Arc::clone(&error))));
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
        Err(error) => Err(failed(Call::new(PERMISSION, url), error)),
    }
}
