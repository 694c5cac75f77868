//! The HTTP endpoints of a container: its health and its metrics.
//!
//! `/health` depends on the store: 503 when the store has accepted no heartbeat for 90 s. `/live`
//! only shows that the process answers: running builds must not be stopped because the table is
//! unreachable.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};

use crate::runner::RunnerHandle;

pub fn router(runner: RunnerHandle, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/live", get(|| async { Json(json!({"status": "ok"})) }))
        .with_state(runner)
        .route("/metrics", get(async move || metrics.render()))
}

async fn health(State(runner): State<RunnerHandle>) -> impl IntoResponse {
    let health = runner.health();
    let (status, word) = match health.is_well() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "store_away"),
    };
    let body: Value = json!({
        "status": word,
        "worker_id": health.worker_id,
        "worker_status": health.status,
        "slots": health.slots,
        "running": health.running,
        "store_ok_age_s": health.store_ok_age.as_secs(),
    });
    (status, Json(body))
}
