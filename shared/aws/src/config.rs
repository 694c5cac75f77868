//! The SDK's configuration for both clients: endpoint, credentials, TLS, time-outs, retries.

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, ConfigLoader, SdkConfig};
use aws_smithy_http_client::{Builder, tls};

/// Loads region, credentials and endpoint from the environment, as every AWS tool does
/// (`AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`, the container's role …).
///
/// A try may take 5 s, and a call 20 s with at most 4 tries. The queue sets longer times for its
/// long polls. After that, the caller decides whether to try again.
pub async fn load() -> SdkConfig {
    loader().load().await
}

/// The loader of [`load`], for callers that set an endpoint or credentials first.
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
