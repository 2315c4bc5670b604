//! `/readyz`, `/livez` and `/metrics`.

use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::watch::Health;

/// What pages are made from.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Why the controller is not ready yet, in words; none: it is.
    pub(crate) readiness: watch::Receiver<Option<String>>,
    /// What fails meanwhile.
    pub(crate) health: watch::Receiver<Arc<Health>>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
}

/// Answers until it is dropped.
pub(crate) async fn serve(listener: TcpListener, sources: Sources) {
    let (ready, health) = (sources.readiness.clone(), sources.health.clone());
    let router = Router::new()
        .route("/readyz", get(move || async move { readyz(ready.borrow().as_deref(), &health.borrow()) }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/metrics", get(move || async move { metrics(&sources.metrics) }));
    if let Err(error) = axum::serve(listener, router).await {
        tracing::error!("the admin server has ended: {error}");
    }
}

/// Watches that fail are told, and are no reason not to be ready: what was read is served on.
fn readyz(fault: Option<&str>, health: &Health) -> Response {
    let status = if fault.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut text = format!("{}\n", fault.unwrap_or("ready"));
    for (watch, fault) in &health.faults {
        text.push_str(&format!("the watch of {watch} fails and is tried again: {fault}\n"));
    }
    (status, text).into_response()
}

fn metrics(metrics: &Metrics) -> Response {
    match metrics.text() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_fails_is_told_and_changes_no_readiness() {
        let mut fails = Health::default();
        fails.faults.insert("HTTPRoute".to_owned(), "forbidden".to_owned());
        let told = "the watch of HTTPRoute fails and is tried again: forbidden\n";
        for (fault, health, status, text) in [
            (None, &Health::default(), StatusCode::OK, "ready\n".to_owned()),
            (None, &fails, StatusCode::OK, format!("ready\n{told}")),
            (Some("not yet"), &fails, StatusCode::SERVICE_UNAVAILABLE, format!("not yet\n{told}")),
        ] {
            let response = readyz(fault, health);
            assert_eq!(response.status(), status);
            let body = axum::body::to_bytes(response.into_body(), 4096).await.unwrap();
            assert_eq!(body, text.as_bytes());
        }
    }
}
