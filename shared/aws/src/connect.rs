//! Creating store and queue from one load of the SDK's configuration.

use std::sync::Arc;

use aws_config::SdkConfig;
use rdev_domain::retention::Retention;

use crate::config;
use crate::queue::SqsQueue;
use crate::settings::Settings;
use crate::store::DynamoStore;

/// The store and the queue.
#[derive(Debug, Clone)]
pub struct Aws {
    pub store: Arc<DynamoStore>,
    pub queue: Arc<SqsQueue>,
    pub(crate) tables: aws_sdk_dynamodb::Client,
    pub(crate) queues: aws_sdk_sqs::Client,
    pub(crate) settings: Settings,
}

impl Aws {
    /// Creates both from a loaded configuration. It makes no call.
    pub fn new(sdk: &SdkConfig, settings: &Settings, retention: Retention) -> Self {
        let tables = aws_sdk_dynamodb::Client::new(sdk);
        let queues = aws_sdk_sqs::Client::new(sdk);
        Self {
            store: Arc::new(DynamoStore::new(tables.clone(), settings.table.clone(), retention)),
            queue: Arc::new(SqsQueue::new(queues.clone(), settings.clone())),
            tables,
            queues,
            settings: settings.clone(),
        }
    }
}

/// Loads the SDK's configuration and creates both. The only calls are those that get the
/// credentials.
pub async fn connect(settings: &Settings, retention: Retention) -> Aws {
    Aws::new(&config::load().await, settings, retention)
}
