//! A controller that sends what a test tells it to.

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::body::{Outgoing, Reader};

/// A stream that a proxy has opened. The connection breaks when this is dropped.
pub(super) struct Opened {
    pub(super) chunks: mpsc::Sender<Bytes>,
    pub(super) reader: Reader,
    connection: tokio::task::AbortHandle,
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Opened {
    /// The next message of the proxy; none at the end of the stream.
    pub(super) async fn heard(&mut self) -> Option<String> {
        let frame = tokio::time::timeout(SOON, self.reader.next()).await.expect("it says something");
        frame.ok().flatten().map(|frame| String::from_utf8(frame.to_vec()).unwrap())
    }

    pub(super) async fn say(&self, text: &str) {
        let mut chunk = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        chunk.extend_from_slice(text.as_bytes());
        self.send(&chunk).await;
    }

    pub(super) async fn send(&self, chunk: &[u8]) {
        self.chunks.send(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
}

/// A controller, and the streams that proxies open.
pub(super) async fn start(authority: &Authority) -> (SocketAddr, mpsc::Receiver<Opened>) {
    let certificate = authority.issue(SERVER_NAME);
    let chain = vec![CertificateDer::from_pem_slice(certificate.chain.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (opened, streams) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (tls, opened) = (tls.clone(), opened.clone());
            let (handle, own) = tokio::sync::oneshot::channel();
            let own = Arc::new(Mutex::new(Some(own)));
            let task = tokio::spawn(async move {
                let stream = tls.accept(socket).await.unwrap();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (opened, own) = (opened.clone(), own.clone());
                    async move {
                        let (chunks, body) = Outgoing::new(1);
                        let own = own.lock().unwrap().take().unwrap();
                        let connection = own.await.unwrap();
                        let stream = Opened { chunks, reader: Reader::new(request.into_body(), 1 << 20), connection };
                        opened.send(stream).await.map_err(|_| std::fmt::Error)?;
                        Ok::<_, std::fmt::Error>(Response::new(body))
                    }
                });
                let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
            let _ = handle.send(task.abort_handle());
        }
    });
    (address, streams)
}
