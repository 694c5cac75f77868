//! The adapters against a real SQS and DynamoDB protocol server, on loopback.

mod check;
mod faults;
mod queue;
mod scene;
mod store;
