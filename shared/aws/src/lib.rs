//! The AWS shape's adapters: a store on DynamoDB, a queue on SQS.

#![allow(missing_docs)]

pub mod check;
mod clock;
pub mod config;
mod connect;
mod error;
mod forge;
mod queue;
pub mod schema;
#[cfg(feature = "secrets")]
pub mod secrets;
mod service_error;
mod settings;
pub mod stack;
mod store;

pub use connect::{Aws, connect};
pub use forge::NoForge;
pub use queue::SqsQueue;
pub use settings::{
    DEAD_QUEUE_URL, QUEUE_AGENT, QUEUE_URL, Settings, SettingsError, TABLE, agent_queue_url,
};
pub use store::DynamoStore;
