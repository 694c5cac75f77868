//! The API of the server: its context and its HTTP listener.

use std::future::IntoFuture;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context as _;
use axum::serve::ListenerExt;
use metrics_exporter_prometheus::PrometheusHandle;
use rdev_domain::git_url::UrlPolicy;
use rdev_domain::ports::{Ci, Dns};
use rdev_domain::spec::AgentName;
use rdev_functions::{Context, GitUser, HookSecrets, Settings};
use rdev_platform::connect::Platform;
use rdev_runner::{Ports, RunnerHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::Config;

/// Listens on `address`. Returns the listener and the URL for clients on this machine.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<(TcpListener, String)> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another with --listen"))?;
    let address = listener.local_addr().context("cannot read the listener's address")?;
    let url = format!("http://{}", reachable(address));
    Ok((listener, url))
}

/// Serves the API until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    context: Context,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Answers are small; Nagle's algorithm would only delay them.
        if let Err(error) = connection.set_nodelay(true) {
            warn!(%error, "cannot turn off Nagle's algorithm for a connection");
        }
    });
    let api = rdev_functions::api(context).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, api).with_graceful_shutdown(stop.cancelled_owned()).into_future().await
}

/// What the endpoints work with.
pub(super) fn context(
    ports: Ports,
    platform: &Platform,
    settings: Settings,
    metrics: &PrometheusHandle,
    runner: RunnerHandle,
) -> Context {
    Context {
        store: ports.store,
        queue: ports.queue,
        forge: ports.forge,
        ci: platform.ci.clone().map(|ci| ci as Arc<dyn Ci>),
        dns: platform.dns.clone().map(|dns| dns as Arc<dyn Dns>),
        settings,
        metrics: Some(metrics.clone()),
        on_cancel: Some(Arc::new(move |task| runner.cancel(task))),
    }
}

/// The API's limits and defaults.
pub(super) fn settings(
    config: &Config,
    platform: &Platform,
    default_agent: AgentName,
    url_policy: UrlPolicy,
) -> Settings {
    let dns = platform.dns_defaults.clone();
    let hooks = HookSecrets {
        gitea: platform.forge_webhook_key.clone(),
        ci: platform.ci_webhook_key.clone(),
    };
    let registry = config.registry.clone();
    let git_user = match config.for_runner().git.forge_user_at {
        Some(origin) => GitUser::OfForgeAt(origin),
        None => GitUser::Another,
    };
    Settings { default_agent, url_policy, dns, hooks, registry, git_user, ..config.api.clone() }
}

/// Makes this process record metrics.
pub(super) fn install_metrics() -> anyhow::Result<PrometheusHandle> {
    rdev_functions::services::metrics::prometheus()
        .install_recorder()
        .context("cannot set up metrics")
}

/// The address at which clients on this machine reach a listener.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_on_all_addresses_is_reached_on_loopback() {
        let of = |text: &str| reachable(text.parse().expect("an address")).to_string();
        assert_eq!(of("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(of("[::]:80"), "[::1]:80");
        assert_eq!(of("10.0.0.1:80"), "10.0.0.1:80");
    }
}
