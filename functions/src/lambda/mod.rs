//! The API as Lambda functions see it: events in, answers out, both JSON.
//!
//! Nothing here uses the Lambda runtime or an AWS SDK, so the ordinary tests cover it; the programs
//! in `src/bin` put it on the runtime. This code reads the requests of an API Gateway instead of
//! `lambda_http`, which panics on bodies that are not base64 and on invalid hosts, and adds the
//! stage to the path instead of removing it.

pub mod dead_letters;
pub mod environment;
pub mod families;
pub mod http_api;
