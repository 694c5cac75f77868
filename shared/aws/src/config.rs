//! One load of the SDK's configuration for both clients: endpoint, credentials, TLS,
//! time-outs and retries, set on purpose.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_smithy_http_client::{Builder, tls};

/// Loads region, credentials and endpoint from the environment, as every AWS tool does
/// (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, the container's role …).
///
/// A try may take 5 s (a long poll 25 s more: the queue sets that itself), a call 20 s; there
/// are at most 4 tries. What is still not done then is for the caller to try again.
pub async fn load() -> SdkConfig {
    loader().load().await
}

/// What [`load`] loads, for those who give it an endpoint or credentials first.
pub fn loader() -> ConfigLoader {
    let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .operation_attempt_timeout(Duration::from_secs(5))
        .operation_timeout(Duration::from_secs(20))
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .http_client(Builder::new().tls_provider(ring).build_https())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_max_attempts(4))
}
