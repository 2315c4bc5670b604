//! A strict client: it opens one connection for each exchange, never retries, and follows nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::case::Exchange;
use crate::certificate::Pair;

/// How long an exchange may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(20);

/// A whole response.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// Trailers; empty if there were none.
    pub trailers: HeaderMap,
    /// How long it took, from before the connection was opened.
    pub took: Duration,
    /// What the server showed first of its certificates, over TLS.
    pub certificate: Option<CertificateDer<'static>>,
}

impl Answer {
    /// A header's first value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// `grpc-status` from the trailers, or from the headers of a trailers-only response.
    pub fn grpc_status(&self) -> Option<u32> {
        let value = self.trailers.get("grpc-status").or_else(|| self.headers.get("grpc-status"))?;
        value.to_str().ok()?.parse().ok()
    }

    /// The echo server's report.
    pub fn echo(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends the exchange's request to `address`, over TLS if `tls`.
///
/// # Errors
/// Anything that keeps a whole response from arriving, in words.
pub async fn send(address: SocketAddr, tls: bool, exchange: &Exchange) -> Result<Answer, String> {
    send_as(address, tls, exchange, None).await
}

/// The same by a client that shows `own` if it is asked for a certificate.
///
/// # Errors
/// As [`send`].
pub async fn send_as(address: SocketAddr, tls: bool, exchange: &Exchange, own: Option<&Pair>) -> Result<Answer, String> {
    let start = tokio::time::Instant::now();
    let mut answer = tokio::time::timeout(PATIENCE, send_once(address, tls, exchange, own))
        .await
        .map_err(|_| format!("no whole response within {PATIENCE:?}"))??;
    answer.took = start.elapsed();
    Ok(answer)
}

async fn send_once(address: SocketAddr, tls: bool, exchange: &Exchange, own: Option<&Pair>) -> Result<Answer, String> {
    let http2 = exchange.http.unwrap_or(if exchange.grpc { 2 } else { 1 }) == 2;
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
    let _ = stream.set_nodelay(true);
    if tls {
        let name = exchange.sni.as_deref().unwrap_or(&exchange.host);
        let stream = tls_stream_with(stream, name, &[alpn(http2)], own).await?;
        let certificate = shown(&stream);
        let answer = exchange_over(stream, http2, true, exchange).await?;
        Ok(Answer { certificate, ..answer })
    } else {
        exchange_over(stream, http2, false, exchange).await
    }
}

/// Opens TLS without looking at the certificate; an empty name sends no SNI.
///
/// # Errors
/// The handshake's, in words.
pub async fn tls_stream(
    stream: TcpStream,
    name: &str,
    http2: bool,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    tls_stream_with(stream, name, &[alpn(http2)], None).await
}

fn alpn(http2: bool) -> &'static [u8] {
    if http2 { b"h2" } else { b"http/1.1" }
}

/// What the server showed first of its certificates.
pub fn shown(stream: &tokio_rustls::client::TlsStream<TcpStream>) -> Option<CertificateDer<'static>> {
    stream.get_ref().1.peer_certificates().and_then(<[_]>::first).map(|certificate| certificate.clone().into_owned())
}

/// The same with other protocols, and with a certificate of the client's own.
///
/// # Errors
/// As [`tls_stream`].
pub async fn tls_stream_with(
    stream: TcpStream,
    name: &str,
    alpn: &[&[u8]],
    own: Option<&Pair>,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let mut config = trusting_anybody(alpn, own)?;
    config.enable_sni = !name.is_empty();
    let name = ServerName::try_from(if name.is_empty() { "no-sni.invalid" } else { name }.to_owned())
        .map_err(|error| format!("server name `{name}`: {error}"))?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| format!("TLS handshake: {error}"))
}

/// A client that does not look at the server's certificate.
///
/// # Errors
/// When its own certificate cannot be used, in words.
pub fn trusting_anybody(alpn: &[&[u8]], own: Option<&Pair>) -> Result<rustls::ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)));
    let mut config = match own {
        None => builder.with_no_client_auth(),
        Some(own) => {
            let (chain, key) = own.der();
            builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client's certificate: {error}"))?
        }
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

async fn exchange_over<S>(stream: S, http2: bool, tls: bool, exchange: &Exchange) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = request(http2, tls, exchange)?;
    let fault = |error: hyper::Error| format!("{error:?}");
    if http2 {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(fault)?;
        let driver = tokio::spawn(connection);
        let response = collect(sender.send_request(request).await.map_err(fault)?).await;
        driver.abort();
        response
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(fault)?;
        let driver = tokio::spawn(connection);
        let response = collect(sender.send_request(request).await.map_err(fault)?).await;
        driver.abort();
        response
    }
}

async fn collect(response: http::Response<hyper::body::Incoming>) -> Result<Answer, String> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.map_err(|error| format!("response body: {error:?}"))?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body: collected.to_bytes(),
        trailers,
        took: Duration::ZERO,
        certificate: None,
    })
}

fn request(http2: bool, tls: bool, exchange: &Exchange) -> Result<http::Request<Full<Bytes>>, String> {
    let uri = if http2 {
        format!("{}://{}{}", if tls { "https" } else { "http" }, exchange.host, exchange.path)
    } else {
        exchange.path.clone()
    };
    let mut request = http::Request::builder().method(exchange.method()).uri(uri);
    if !http2 {
        request = request.header("host", &exchange.host);
    }
    for (name, value) in exchange.header_lines() {
        request = request.header(name, value);
    }
    let body = if exchange.grpc { Bytes::from_static(&[0; 5]) } else { Bytes::from(exchange.body.clone()) };
    request.body(Full::new(body)).map_err(|error| format!("the case's request cannot be sent: {error}"))
}

/// Accepts every certificate: what a listener presents is looked at by tests that say so.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
