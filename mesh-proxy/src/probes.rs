//! What the kubelet and Prometheus ask of the application, asked in their place from inside of the pod.
//!
//! An application whose sidecar is strict cannot be asked by those who are not in the mesh. So the injector has them ask the sidecar, which asks
//! the application: on the port and path that the pod declares, and no others. What the application says is passed on, and a sidecar that
//! runs says nothing about an application that does not.

mod ask;
mod grpc;
mod page;
mod tls;

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpStream;

use self::ask::AskError;

/// The probes of a pod, as the injector found them: `/probe/<n>` is the one at this place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Probes(pub(crate) Vec<Probe>);

/// A probe, with a number for its port.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Probe {
    #[serde(flatten)]
    way: Way,
    /// How long the application may take, in seconds.
    timeout: u64,
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    /// A page.
    Http(Page),
    /// A port that takes connections if all is well.
    Tcp { port: u16 },
    /// A server that speaks `grpc.health.v1`; the empty service is the server itself.
    Grpc { port: u16, service: String },
}

/// A page of the application.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Page {
    port: u16,
    /// With its query, if it has one.
    path: String,
    scheme: Scheme,
    #[serde(default)]
    headers: Vec<Header>,
}

/// How a page is asked for. Certificates are not verified: the kubelet does not either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
enum Scheme {
    Http,
    Https,
}

/// A header of a probe.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    value: String,
}

/// How long the application may take until it begins to give its metrics: whoever asks gives up long before.
const METRICS: Duration = Duration::from_secs(60);

/// In capitals in probes, in small letters in annotations, where anything else may stand too: no reason for a sidecar not to run.
impl From<String> for Scheme {
    fn from(text: String) -> Self {
        if text.eq_ignore_ascii_case("https") { Self::Https } else { Self::Http }
    }
}

impl FromStr for Probes {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

impl FromStr for Page {
    type Err = serde_json::Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        serde_json::from_str(text)
    }
}

/// `/probe/<n>` and `/app-metrics`. The application is asked at `pod`, as the kubelet would.
pub(crate) fn pages(probes: Probes, metrics: Option<Page>, pod: IpAddr) -> Router {
    Router::new().route("/probe/{number}", get(probe)).route("/app-metrics", get(app_metrics)).with_state(Arc::new(Asked {
        probes,
        metrics,
        pod,
    }))
}

/// Whom to ask, and for what.
#[derive(Debug)]
struct Asked {
    probes: Probes,
    metrics: Option<Page>,
    pod: IpAddr,
}

async fn probe(State(asked): State<Arc<Asked>>, Path(number): Path<String>) -> Response {
    let Some(probe) = number.parse().ok().and_then(|number: usize| asked.probes.0.get(number)) else {
        return (StatusCode::NOT_FOUND, "the pod declares no such probe\n").into_response();
    };
    let patience = Duration::from_secs(probe.timeout);
    match tokio::time::timeout(patience, probe.way.ask(asked.pod)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
        Err(_) => {
            let words = format!("the application has not answered within {} s\n", patience.as_secs());
            (StatusCode::GATEWAY_TIMEOUT, words).into_response()
        }
    }
}

impl Way {
    async fn ask(&self, pod: IpAddr) -> Result<Response, AskError> {
        match self {
            Self::Http(page) => page::probe(page, pod).await,
            Self::Grpc { port, service } => grpc::probe((pod, *port).into(), service).await,
            Self::Tcp { port } => {
                connect((pod, *port).into()).await?;
                Ok("the application takes connections\n".into_response())
            }
        }
    }
}

async fn app_metrics(State(asked): State<Arc<Asked>>, uri: Uri, headers: HeaderMap) -> Response {
    let Some(page) = &asked.metrics else {
        return (StatusCode::NOT_FOUND, "the pod declares no metrics: it has no annotation prometheus.io/port\n").into_response();
    };
    match tokio::time::timeout(METRICS, page::pass(page, asked.pod, uri.query(), &headers)).await {
        Ok(Ok(response)) => response.map(Body::new),
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
        Err(_) => (StatusCode::GATEWAY_TIMEOUT, "the application has not answered\n").into_response(),
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, AskError> {
    TcpStream::connect(address).await.map_err(|source| AskError::Connect { address, source })
}

#[cfg(test)]
mod tests;
