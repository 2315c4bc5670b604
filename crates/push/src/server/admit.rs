//! A request -> a stream, or why there is none.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use isthmus_routing::snapshot::ModelVersion;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::accept::Stage;
use super::failures::Excess;
use super::session::Session;
use super::{Denied, Peer, Role, Shared, count};
use crate::body::{Outgoing, Reader};
use crate::message::{self, CALLS, Hello, ReadFromProxy};
use crate::{AT_ONCE, ITS_TURN, LEADER, PACKAGE, PATH};

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Chunks that wait for HTTP/2 to take them.
const CHUNKS: usize = 1;

/// Why a request gets no stream.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    text: String,
    leader: Option<SocketAddr>,
    /// When to come again, where that is known.
    again: Option<&'static str>,
    /// What became of its token; none: nothing special.
    token: Option<Token>,
}

#[derive(Debug)]
enum Token {
    /// It was not looked at.
    Limited,
    /// It could not be looked at.
    Unjudged,
}

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), leader: None, again: None, token: None }
    }

    /// There will be a leader that knows the cluster at any moment.
    fn soon(text: &str) -> Self {
        Self { again: Some(AT_ONCE), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, text) }
    }
}

/// Answers a request; its connection is over when it gets no stream.
pub(super) async fn admit(
    request: Request<Incoming>,
    peer: SocketAddr,
    shared: Arc<Shared>,
    stage: Arc<watch::Sender<Stage>>,
) -> Result<Answer, Infallible> {
    match accepted(request, peer.ip(), &shared).await {
        Ok(accepted) => {
            stage.send_replace(Stage::Streaming);
            Ok(accepted.start(peer, shared, stage))
        }
        Err(refusal) => {
            let counts = &shared.counts;
            count(match (&refusal.token, refusal.status) {
                (Some(Token::Limited), _) => &counts.limited,
                (Some(Token::Unjudged), _) => &counts.unjudged,
                (None, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => &counts.denied,
                (None, StatusCode::MISDIRECTED_REQUEST) => &counts.referred,
                (None, _) => &counts.refused,
            });
            tracing::debug!(%peer, status = %refusal.status, "no stream: {}", refusal.text);
            // The answer is on its way when the connection looks for this.
            stage.send_replace(Stage::Over);
            Ok(refusal.answer())
        }
    }
}

/// A request that gets a stream.
struct Accepted {
    proxy: Peer,
    hello: Hello,
    model: ModelVersion,
    reader: Reader,
    permit: OwnedSemaphorePermit,
}

/// Cheap questions first, so that a stranger costs little.
async fn accepted(request: Request<Incoming>, peer: IpAddr, shared: &Shared) -> Result<Accepted, Refusal> {
    if (request.method(), request.uri().path()) != (&Method::POST, PATH) {
        return Err(Refusal::new(StatusCode::NOT_FOUND, "nothing is here: a proxy POSTs to its stream"));
    }
    if let Role::Follower { leader } = *shared.options.role.borrow() {
        return Err(match leader {
            Some(address) => {
                let text = format!("this controller does not lead: ask {address}");
                Refusal { leader, ..Refusal::new(StatusCode::MISDIRECTED_REQUEST, text) }
            }
            None => Refusal::soon("this controller does not lead, and no other does yet: come again"),
        });
    }
    if shared.published.borrow().is_none() {
        return Err(Refusal::soon("this controller has not read the cluster yet: come again"));
    }
    let permit = shared.streams.clone().try_acquire_owned().map_err(|_| {
        let text = format!("this controller has as many streams as it may ({})", shared.options.limits.streams);
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, text)
    })?;
    let proxy = proxy(&request, peer, shared).await?;
    let mut reader = Reader::new(request.into_body(), shared.options.limits.message);
    let hello = hello(&mut reader).await.map_err(|fault| Refusal::new(StatusCode::BAD_REQUEST, fault))?;
    let models = &shared.options.models;
    let model = models.common(hello.oldest, hello.newest).ok_or_else(|| {
        let text = format!(
            "this proxy ({}) reads models {} to {} and this controller ({PACKAGE}) writes {} to {}: they may be one release apart",
            hello.package, hello.oldest, hello.newest, models.oldest, models.newest
        );
        Refusal::new(StatusCode::NOT_IMPLEMENTED, text)
    })?;
    Ok(Accepted { proxy, hello, model, reader, permit })
}

async fn proxy(request: &Request<Incoming>, peer: IpAddr, shared: &Shared) -> Result<Peer, Refusal> {
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer ").map(str::trim))
        .filter(|token| !token.is_empty())
        .ok_or_else(|| Refusal::new(StatusCode::UNAUTHORIZED, "no token was sent: `Authorization: Bearer TOKEN`"))?
        .to_owned();
    // Never closed, so this is no error; and the connection's deadline ends the wait.
    let _permit = shared.authentications.acquire().await;
    if let Some(excess) = shared.failures.excess(peer) {
        return Err(limited(excess, peer));
    }
    (shared.options.authenticate)(token).await.map_err(|denied| {
        shared.failures.count(peer, &denied);
        let (status, token) = match denied {
            Denied::Unauthorized(_) | Denied::Unasked(_) => (StatusCode::UNAUTHORIZED, None),
            Denied::Forbidden(_) => (StatusCode::FORBIDDEN, None),
            Denied::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Some(Token::Unjudged)),
        };
        Refusal { token, ..Refusal::new(status, denied.to_string()) }
    })
}

/// Nobody was asked about its token.
fn limited(excess: Excess, peer: IpAddr) -> Refusal {
    let (status, text, again) = match excess {
        Excess::Address => {
            let text = format!("too many tokens from {peer} were not taken lately, so this one was not looked at");
            (StatusCode::TOO_MANY_REQUESTS, text, None)
        }
        Excess::All => {
            let text = "too many tokens were not taken lately: come again".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, text, Some(ITS_TURN))
        }
    };
    Refusal { token: Some(Token::Limited), again, ..Refusal::new(status, text) }
}

async fn hello(reader: &mut Reader) -> Result<Hello, String> {
    let first = reader.next().await.map_err(|error| error.to_string())?.ok_or("the first message is missing")?;
    let message: ReadFromProxy =
        serde_json::from_slice(&first).map_err(|error| format!("the first message is broken: {error}"))?;
    let mut hello = message.hello.ok_or("the first message is not a hello")?;
    hello.package = message::beginning(&hello.package, message::RELEASE);
    match hello.calls.len() {
        0..=CALLS => Ok(hello),
        calls => Err(format!("this proxy subscribes to {calls} Services, and may to {CALLS}")),
    }
}

impl Accepted {
    fn start(self, peer: SocketAddr, shared: Arc<Shared>, stage: Arc<watch::Sender<Stage>>) -> Answer {
        let (chunks, body) = Outgoing::new(CHUNKS);
        let Self { proxy, hello, model, reader, permit } = self;
        let session = Session::new(proxy, hello, model, chunks, shared);
        tokio::spawn(async move {
            session.run(reader, peer).await;
            drop(permit);
            stage.send_replace(Stage::Over);
        });
        Response::new(body.boxed())
    }
}

impl Refusal {
    fn answer(self) -> Answer {
        let mut answer = Response::new(Full::new(Bytes::from(self.text + "\n")).boxed());
        *answer.status_mut() = self.status;
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(leader) = self.leader.and_then(|leader| HeaderValue::try_from(leader.to_string()).ok()) {
            answer.headers_mut().insert(LEADER, leader);
        }
        if let Some(again) = self.again {
            answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(again));
        }
        answer
    }
}
