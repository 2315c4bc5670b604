//! A strict client: it never sends a request twice.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::fault::{Fault, Outcome, ensure};
use crate::manifests::HOST;

/// After this a request is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How requests go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    /// With prior knowledge.
    Two,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
}

impl Answer {
    /// A header's value; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A way to one address; it keeps its connection until the other side ends it.
pub(crate) struct Line {
    address: SocketAddr,
    http: Http,
    sender: Option<Sender>,
}

enum Sender {
    One(http1::SendRequest<Empty<Bytes>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Line {
    pub(crate) fn new(address: SocketAddr, http: Http) -> Self {
        Self { address, http, sender: None }
    }

    /// The next request opens a connection.
    pub(crate) fn close(&mut self) {
        self.sender = None;
    }

    /// Sends a request once. One that nobody has seen, because the other side had ended the connection in order, goes out on a new connection:
    /// it did not leave this process, or the other side says that it was not looked at.
    pub(crate) async fn get(&mut self, path: &str) -> Outcome<Answer> {
        match tokio::time::timeout(PATIENCE, self.exchange(path)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => {
                self.close();
                Err(fault)
            }
            Err(_) => {
                self.close();
                Err(Fault::said(format!("no answer within {} s", PATIENCE.as_secs())))
            }
        }
    }

    async fn exchange(&mut self, path: &str) -> Outcome<Answer> {
        let uri = match self.http {
            Http::One => path.to_owned(),
            Http::Two => format!("http://{HOST}{path}"),
        };
        let mut request = Request::get(uri);
        if self.http == Http::One {
            request = request.header("host", HOST);
        }
        let mut request = request.body(Empty::new())?;
        let again = request.clone();
        loop {
            let kept = self.sender.take();
            // Only a connection that was used before may have ended in order by now.
            let (mut sender, fresh) = match kept {
                Some(sender) => (sender, false),
                None => (self.connect().await?, true),
            };
            if !sender.is_ready().await {
                ensure!(!fresh, "the connection was closed before the first request");
                continue;
            }
            let mut failed = match sender.send(request).await {
                Ok(response) => {
                    let (parts, body) = response.into_parts();
                    let whole = body.collect().await;
                    whole.map_err(|error| Fault::said(format!("body of a {}: {error:?}", parts.status)))?;
                    self.sender = Some(sender);
                    return Ok(Answer { status: parts.status.as_u16(), headers: parts.headers });
                }
                Err(failed) => failed,
            };
            let (unsent, error) = (failed.take_message(), failed.into_error());
            request = match unsent.or_else(|| is_unseen(&error).then(|| again.clone())) {
                Some(unseen) if !fresh => unseen,
                _ => return Err(Fault::said(format!("{error:?}"))),
            };
        }
    }

    async fn connect(&self) -> Outcome<Sender> {
        let stream = TcpStream::connect(self.address).await.map_err(|error| Fault::said(format!("connect: {error}")))?;
        stream.set_nodelay(true)?;
        let stream = TokioIo::new(stream);
        Ok(match self.http {
            Http::One => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Sender::One(sender)
            }
            Http::Two => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Sender::Two(sender)
            }
        })
    }
}

/// Whether the other side has ended a connection in order, and the request was later than the last that it takes on it (RFC 9113, 6.8): it was
/// on its way, or still here, when that was said.
fn is_unseen(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_go_away() && cause.is_remote() && cause.reason() == Some(h2::Reason::NO_ERROR))
}

type Sent = Result<http::Response<hyper::body::Incoming>, hyper::client::conn::TrySendError<Request<Empty<Bytes>>>>;

impl Sender {
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }

    async fn send(&mut self, request: Request<Empty<Bytes>>) -> Sent {
        match self {
            Self::One(sender) => sender.try_send_request(request).await,
            Self::Two(sender) => sender.try_send_request(request).await,
        }
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Outcome<Answer> {
    Line::new(address, Http::One).get(path).await
}

/// The certificate that a handshake shows, as its bytes.
pub(crate) async fn certificate(address: SocketAddr) -> Outcome<Vec<u8>> {
    let handshake = async {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("connect: {error}"))?;
        let stream = isthmus_tests::client::tls_stream(stream, HOST, false).await?;
        let (_, session) = stream.get_ref();
        let shown = session.peer_certificates().and_then(|chain| chain.first()).map(|leaf| leaf.to_vec());
        shown.ok_or_else(|| "no certificate".to_owned())
    };
    let outcome = tokio::time::timeout(PATIENCE, handshake).await;
    outcome.map_err(|_| Fault::said("no handshake"))?.map_err(Fault::said)
}
