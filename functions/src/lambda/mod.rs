//! The API as Lambda functions see it: events in, answers out, both JSON.
//!
//! Nothing here knows the Lambda runtime or an AWS SDK, so that the tests of every day hold
//! it to its promises; the programs in `src/bin` put it on the runtime. The requests of an API
//! Gateway are read here and not by `lambda_http`, which panics on bodies that are not base64
//! and on hosts that are none, and puts the stage before the path instead of taking it away.

pub mod dead_letters;
pub mod environment;
pub mod families;
pub mod http_api;
