//! HTTPS, with the newest certificate that can be used.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::peers::{Peers, Place, Shares};
use crate::authority::Material;
use crate::metrics::Metrics;

/// Connections at a time: the API server opens one for each review that it waits for.
const CONNECTIONS: usize = 1024;
/// What one address may have of them, and of the reviews at a time. The API server may be one address. Those that it does not need for the
/// moment are 25, and a review takes a millisecond.
pub(super) const SHARES: Shares = Shares { connections: 128, reviews: 8 };
/// How long the handshake and the first request's header may take together: the API server waits no longer for its answer.
pub(super) const FIRST: Duration = Duration::from_secs(5);
/// How long a connection may wait for its next request. The API server gives its own up after 90 s, so that it is never in the middle of
/// one when we do.
const IDLE: Duration = Duration::from_secs(100);
/// How long the system's refusal to accept is waited out.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves until it is dropped; from when there is a certificate.
pub(super) async fn run(
    listener: TcpListener,
    mut material: watch::Receiver<Option<Arc<Material>>>,
    router: Router,
    metrics: &Metrics,
) {
    if material.wait_for(Option::is_some).await.is_err() {
        return;
    }
    material.mark_changed();
    let mut tls = None;
    let peers = Peers::new(CONNECTIONS, SHARES);
    let mut connections = JoinSet::new();
    // It is never closed.
    while let Some(permit) = peers.room().await {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((socket, peer)) => {
                let Some(place) = peers.place(permit, peer.ip()) else {
                    tracing::debug!(%peer, "cut: its address has too many connections to the webhook");
                    metrics.webhook_cut();
                    continue;
                };
                renew(&mut tls, &mut material);
                if let Some(tls) = &tls {
                    connections.spawn(serve(socket, peer, TlsAcceptor::clone(tls), router.clone(), place));
                }
            }
            // Want of file descriptors passes; a loop without a pause would make it worse.
            Err(error) => {
                tracing::warn!("the webhook cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Takes a new certificate over.
fn renew(tls: &mut Option<TlsAcceptor>, material: &mut watch::Receiver<Option<Arc<Material>>>) {
    if !material.has_changed().unwrap_or_default() {
        return;
    }
    let Some(newest) = material.borrow_and_update().clone() else { return };
    match acceptor(&newest) {
        Ok(acceptor) => *tls = Some(acceptor),
        Err(error) => tracing::error!("the certificate of the webhook cannot be used: {error}"),
    }
}

fn acceptor(material: &Material) -> Result<TlsAcceptor, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(material.certificate.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(material.certificate.key.as_bytes()).map_err(|error| error.to_string())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    // The API server speaks nothing else with webhooks, so that replicas share its requests.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn serve(socket: TcpStream, peer: SocketAddr, tls: TlsAcceptor, router: Router, place: Place) {
    let deadline = Instant::now() + FIRST;
    let stream = match timeout_at(deadline, tls.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "no TLS with the webhook"),
        Err(_) => return tracing::debug!(%peer, "no TLS with the webhook in time"),
    };
    let (asked, reviews) = (Notify::new(), place.reviews());
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        asked.notify_one();
        request.extensions_mut().insert(reviews.clone());
        router.call(request)
    });
    let says_nothing = async {
        if timeout_at(deadline, asked.notified()).await.is_ok() {
            pending::<()>().await;
        }
    };
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE);
    tokio::select! {
        ended = http.serve_connection(TokioIo::new(stream), service) => {
            if let Err(error) = ended {
                tracing::debug!(%peer, %error, "a connection to the webhook broke");
            }
        }
        () = says_nothing => tracing::debug!(%peer, "cut: it has asked the webhook nothing"),
    }
}
