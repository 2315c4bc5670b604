//! Ports: connections -> requests -> answers, with what the script does to each on its way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use super::calls::{Call, Verb};
use super::delete::{self, Deleted};
use super::fault::{self, Action, Live};
use super::kinds::Resource;
use super::read::{self, Form};
use super::refusal::Refusal;
use super::request::{Place, Request, Target};
use super::store::Store;
use super::watch::Watching;
use super::write::{self, Ask, PatchKind};
use super::{Shared, discovery, lock, review};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a port is like for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Calls come through.
    Up,
    /// Calls and events wait until the link is up again: packets are lost.
    Hanging,
    /// Connections are reset, the present ones and the new ones.
    Cut,
}

/// A listening port of one client.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) address: SocketAddr,
    pub(super) link: watch::Sender<Link>,
    task: AbortHandle,
}

/// The connection that a call came through.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub(super) link: watch::Receiver<Link>,
    socket: Arc<Socket>,
}

enum Reply {
    Json(u16, Value),
    Watch(Box<Watching>),
}

impl Port {
    /// Opens a port on loopback. It ends when dropped, with all its connections.
    pub(super) async fn open(name: &str, shared: Arc<Shared>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (link, _) = watch::channel(Link::Up);
        let task = tokio::spawn(accept(listener, name.into(), shared, link.clone())).abort_handle();
        Ok(Self { address, link, task })
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    /// Lets the connection end with a reset. The error is what to end it with.
    pub(super) fn reset(&self) -> io::Error {
        // A socket that is gone already needs no reset.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        io::Error::new(io::ErrorKind::ConnectionReset, "reset by the script")
    }
}

async fn accept(listener: TcpListener, name: Arc<str>, shared: Arc<Shared>, link: watch::Sender<Link>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(serve(stream, Arc::clone(&name), Arc::clone(&shared), link.clone()));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve(stream: TcpStream, name: Arc<str>, shared: Arc<Shared>, link: watch::Sender<Link>) {
    let Ok(socket) = SockRef::from(&stream).try_clone() else { return };
    let wire = Wire { link: link.subscribe(), socket: Arc::new(socket) };
    // Without it a test only takes longer.
    let _ = stream.set_nodelay(true);
    let mut cut = link.subscribe();
    let service = service_fn(|request| handle(request, Arc::clone(&name), Arc::clone(&shared), link.clone(), wire.clone()));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // The peer learns of whatever ended it.
        _ = connection => {}
        _ = cut.wait_for(|link| *link == Link::Cut) => {
            wire.reset();
        }
    }
}

async fn handle(
    request: http::Request<Incoming>,
    name: Arc<str>,
    shared: Arc<Shared>,
    link: watch::Sender<Link>,
    wire: Wire,
) -> io::Result<Response<Body>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    up(&wire).await;
    let read = Request::read(&parts, &body, &lock(&shared.store));
    let request = match read {
        Ok(request) => request,
        Err(refusal) => return Ok(refuse(&refusal)),
    };
    let mut call = Call::new(&name, &request, parts.uri.to_string());
    let rule = fault::judge(&lock(&shared.rules), &call);
    match rule.as_ref().map(|rule| rule.action()) {
        Some(Action::Refuse(refusal)) => {
            call.code = Some(refusal.code);
            shared.log(call);
            return Ok(refuse(refusal));
        }
        Some(action @ (Action::Reset | Action::Crash)) => {
            shared.log(call);
            return Err(lose(action, &link, &wire));
        }
        Some(Action::Delay(time)) => {
            tokio::time::sleep(*time).await;
            up(&wire).await;
        }
        _ => {}
    }
    let reply = {
        // The log has the order of the effects.
        let mut store = lock(&shared.store);
        let reply = dispatch(&shared, &mut store, &request, &call, &wire, rule.clone());
        call.version = store.version();
        call.code = match &reply {
            _ if matches!(rule.as_ref().map(|rule| rule.action()), Some(Action::ResetAfter | Action::CrashAfter)) => None,
            Ok(Reply::Json(code, _)) => Some(*code),
            Ok(Reply::Watch(_)) => Some(200),
            Err(refusal) => Some(refusal.code),
        };
        shared.log(call);
        reply
    };
    if let Some(action @ (Action::ResetAfter | Action::CrashAfter)) = rule.as_ref().map(|rule| rule.action()) {
        return Err(lose(action, &link, &wire));
    }
    Ok(match reply {
        Ok(Reply::Json(code, body)) => response(code, "application/json", body.to_string()),
        Ok(Reply::Watch(watching)) => {
            let mut response = Response::new(StreamBody::new(watching.into_body()).boxed_unsync());
            response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            response
        }
        Err(refusal) => refuse(&refusal),
    })
}

/// Waits until packets come through.
async fn up(wire: &Wire) {
    // The link of a server that ends is gone, and so is the connection.
    let _ = wire.link.clone().wait_for(|link| *link != Link::Hanging).await;
}

fn lose(action: &Action, link: &watch::Sender<Link>, wire: &Wire) -> io::Error {
    if matches!(action, Action::Crash | Action::CrashAfter) {
        link.send_replace(Link::Cut);
    }
    wire.reset()
}

fn response(code: u16, media_type: &'static str, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

fn refuse(refusal: &Refusal) -> Response<Body> {
    let (media_type, body) = refusal.body();
    let mut response = response(refusal.code, media_type, body);
    if let Some(seconds) = refusal.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from(seconds));
    }
    response
}

fn dispatch(
    shared: &Arc<Shared>,
    store: &mut Store,
    request: &Request,
    call: &Call,
    wire: &Wire,
    rule: Option<Arc<Live>>,
) -> Result<Reply, Refusal> {
    let (resource, place) = match &request.target {
        Target::Other(parts) => return discovery::answer(store, parts).map(|body| Reply::Json(200, body)),
        Target::Absent(_) => return Err(Refusal::not_served()),
        Target::Resource(resource, place) => (resource, place),
    };
    let status = place.subresource == "status" && resource.status;
    if !place.subresource.is_empty() && !status {
        return Err(Refusal::not_served());
    }
    let at = match rule.as_ref().map(|rule| rule.action()) {
        Some(Action::Stale(version)) => Some(store.version().min(*version)),
        _ => None,
    };
    let form = Form::new(resource, &place.version, request.metadata_only);
    match request.verb {
        Verb::Get => read::get(store, resource, place, &form, at).map(|body| Reply::Json(200, body)),
        Verb::List => read::list(store, request, resource, place, &form, at).map(|body| Reply::Json(200, body)),
        Verb::Watch => {
            let selector = read::selector(request, resource, place)?;
            let what = (resource, place.version.as_str(), selector);
            let watching = Watching::open(shared, store, wire.clone(), request, what, call, rule);
            Ok(Reply::Watch(Box::new(watching)))
        }
        Verb::Create if resource.kind == "TokenReview" => {
            Ok(Reply::Json(201, review::review(&store.tokens, request.body.clone())))
        }
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete => {
            let written = change(store, request, resource, place, status);
            shared.changed.send_replace(());
            written.map(|(code, body)| Reply::Json(code, body.map_or_else(|| deleted(resource, place), |body| form.show(&body))))
        }
        Verb::Discover | Verb::Other => Err(Refusal::wrong_method()),
    }
}

/// Carries out a write. No object: it is gone.
fn change(
    store: &mut Store,
    request: &Request,
    resource: &Resource,
    place: &Place,
    status: bool,
) -> Result<(u16, Option<Arc<Value>>), Refusal> {
    let ask = Ask {
        resource: resource.clone(),
        version: place.version.clone(),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
        status,
        manager: request.parameter("fieldManager").to_owned(),
        force: request.is_set("force"),
        dry_run: request.parameter("dryRun") == "All",
        trusted: false,
    };
    if resource.namespaced && place.namespace.is_empty() {
        return Err(Refusal::wrong_method());
    }
    let body = request.body.clone();
    let written = match request.verb {
        Verb::Create if !status => write::create(store, ask, body),
        Verb::Update => write::replace(store, &ask, body),
        Verb::Patch => match request.content_type.as_str() {
            "application/apply-patch+yaml" => write::patch(store, &ask, PatchKind::Apply, body),
            "application/merge-patch+json" => write::patch(store, &ask, PatchKind::Merge, body),
            "application/json-patch+json" => write::patch(store, &ask, PatchKind::Json, body),
            _ => Err(Refusal::wrong_media_type()),
        },
        Verb::Delete if !status => {
            return delete::delete(store, &ask, &body).map(|deleted| match deleted {
                Deleted::Gone => (200, None),
                Deleted::Waiting(object) => (200, Some(object)),
            });
        }
        _ => Err(Refusal::wrong_method()),
    };
    written.map(|(code, object)| (code, Some(object)))
}

fn deleted(resource: &Resource, place: &Place) -> Value {
    let details = json!({"name": place.name, "group": resource.group, "kind": resource.plural});
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}
