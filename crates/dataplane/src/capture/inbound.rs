//! Connections to the workload: mTLS of the mesh is ended here, all else is passed on as it is, or is refused.
//!
//! A connection is read until it is known whether it begins with a ClientHello for an identity. Nothing is said to whom it came from
//! before that, and nothing is sent to the workload.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use isthmus_routing::{Identity, MtlsMode, Protocol};
use rustls::server::Accepted;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::StartHandshake;

use super::Caught;
use super::told::tell;
use crate::config::{Config, Shared};
use crate::connection::transport::Transport;
use crate::drain::{Signals, raised};
use crate::identity::{Membership, PROBE, reason};
use crate::limits::Limits;
use crate::proxy::defaults;
use crate::stream::{Splice, Streams, cut_off, reset};
use crate::telemetry::{Captured, ConnectionFault, PortMetrics, StreamEnd, StreamRecord};
use crate::tls::accept::refuse;
use crate::tls::client::Refusal;
use crate::tls::hello::{HelloError, Reader, UNRECOGNIZED_NAME};
use crate::upstream::dial;

/// How long a peer that is in the mesh may take to begin before the workload is connected to, where it may be the workload that begins: its
/// sidecar begins at once, unless it does not know yet that the workload has one too.
const MEMBER: Duration = Duration::from_secs(1);

/// The same for all others. A gateway is not known by its address, and its ClientHello follows the connection without a pause; this is
/// what connections cost on which the server speaks first.
const STRANGER: Duration = Duration::from_millis(50);

/// Why somebody is not served, or no more.
const UNPROVEN: &str = "the client has not proved to be a workload of the mesh, and nobody else is served on this port";

/// How a connection begins.
enum Start {
    /// With a ClientHello for this identity.
    Mesh(Box<Accepted>, String),
    /// With anything else.
    Other,
    /// With nothing so far.
    Silence,
    /// It is over before it has begun.
    End,
}

/// A connection that the workload gets.
struct Begun {
    client: Transport,
    /// Who the client has proved to be.
    source: Option<Identity>,
    /// What was read of it.
    first: Vec<u8>,
    /// The workload, if it was to speak first.
    workload: Option<TcpStream>,
}

/// Why the workload does not get it.
enum Refused {
    Fault(ConnectionFault, Cow<'static, str>),
    /// The client has gone.
    Gone,
}

impl Refused {
    /// For a reason that says all by itself.
    fn fault(fault: ConnectionFault) -> Self {
        Self::Fault(fault, Cow::Borrowed(""))
    }
}

/// Serves a connection to its end: that of its sides, of its patience, or `signals`' cut. [`Caught::original`] is an address of the pod's, and
/// none of the sidecar's own ports. The configuration of now decides, and no later one, unless that takes no more plaintext: `swaps` changes
/// with each.
pub(crate) async fn serve(
    caught: Caught,
    (streams, swaps): (&Streams, watch::Receiver<u64>),
    port: &PortMetrics,
    signals: Signals,
) {
    let config = streams.config.load_full();
    let (peer, original, started) = (caught.peer, caught.original, (caught.started, caught.start_time));
    let mut cut = signals.cut;
    // Boxed, so that a connection does not carry the handshake's state for all its life.
    let beginning = Box::pin(begin(caught.socket, (peer, original), &config, &streams.limits));
    let begun = tokio::select! {
        begun = beginning => begun,
        () = raised(&mut cut) => Err(Refused::fault(ConnectionFault::DrainDeadline)),
    };
    let Begun { client, source, first, workload } = match begun {
        Ok(begun) => begun,
        Err(Refused::Fault(fault, why)) => {
            tell(&streams.telemetry, (peer, original), fault, &why);
            return port.fault(fault);
        }
        Err(Refused::Gone) => return,
    };
    let metrics = streams.telemetry.captured(Captured::Inbound(source.as_ref()));
    let mut record = StreamRecord::new(started, metrics, (peer, original), config.version);
    if let (Some(source), Some(membership)) = (&source, &config.membership) {
        record.protocol = Protocol::Tls.as_str();
        record.client_certificate = Some(format!("URI:{}", source.spiffe(membership.trust_domain())).into());
    }
    drop(config);
    (record.endpoint, record.attempts) = (Some(original), 1);
    record.metrics().began();
    let dialled = match workload {
        Some(workload) => Ok(workload),
        None => tokio::select! {
            dialled = connect(original) => dialled.ok_or(StreamEnd::Unreachable),
            () = raised(&mut cut) => Err(StreamEnd::DrainDeadline),
        },
    };
    let opened = match dialled {
        Ok(workload) => Ok((Splice::new(client, Transport::Plain(workload), first), ())),
        Err(end) => {
            reset(client.socket());
            Err(end)
        }
    };
    let is_plain = source.is_none();
    let end = async {
        tokio::select! {
            end = cut_off(cut) => end,
            () = strict(&streams.config, swaps, original.port()), if is_plain => {
                tell(&streams.telemetry, (peer, original), ConnectionFault::Plaintext, UNPROVEN);
                StreamEnd::Plaintext
            }
        }
    };
    streams.carry(opened, record, port, end).await;
}

/// What is asked on a port. Without a word on it nobody is served who has not proved who he is.
fn mode(config: &Config, port: u16) -> MtlsMode {
    config.snapshot.inbound.as_ref().map_or(MtlsMode::Strict, |inbound| inbound.mode_of(port))
}

/// Waits for a configuration in which nobody is served on this port who has not proved who he is; for ever if none can come.
async fn strict(config: &Shared, mut swaps: watch::Receiver<u64>, port: u16) {
    loop {
        swaps.mark_unchanged();
        if mode(&config.load(), port) == MtlsMode::Strict {
            return;
        }
        if swaps.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The workload itself: nothing of ours is redirected.
async fn connect(original: SocketAddr) -> Option<TcpStream> {
    let dialled = timeout(defaults::CONNECT, dial(original, &[])).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    dialled.inspect_err(|error| tracing::debug!(%original, %error, "the workload cannot be reached")).ok()
}

async fn begin(
    mut socket: TcpStream,
    (peer, original): (SocketAddr, SocketAddr),
    config: &Config,
    limits: &Limits,
) -> Result<Begun, Refused> {
    let mode = mode(config, original.port());
    let Some(membership) = config.membership.as_deref() else {
        if mode == MtlsMode::Strict {
            reset(&socket);
            return Err(Refused::Fault(
                ConnectionFault::NoCertificate,
                "nobody is known who could prove to be a workload".into(),
            ));
        }
        return Ok(Begun { client: Transport::Plain(socket), source: None, first: Vec::new(), workload: None });
    };
    let deadline = Instant::now() + limits.handshake;
    let patience = match mode {
        MtlsMode::Strict => limits.handshake,
        MtlsMode::Permissive if membership.identity_at(&peer.ip()).is_some() => MEMBER,
        MtlsMode::Permissive => STRANGER,
    };
    let mut read = Vec::new();
    let gone = |_| Refused::Gone;
    let mut start = greeting(&mut socket, &mut read, membership, (patience, deadline), limits).await.map_err(gone)?;
    let mut workload = None;
    if matches!(start, Start::Silence) && read.is_empty() && mode == MtlsMode::Permissive {
        workload = connect(original).await;
        // Whoever speaks first says what it is. Nobody: that is for the splice to end.
        let workload_speaks = async {
            match &workload {
                Some(workload) => workload.readable().await,
                None => Ok(()),
            }
        };
        let client_speaks = tokio::select! {
            biased;
            ready = socket.readable() => ready.is_ok(),
            _ = workload_speaks => false,
            () = tokio::time::sleep(limits.stream_idle) => false,
        };
        if client_speaks {
            let times = (MEMBER, Instant::now() + limits.handshake);
            start = greeting(&mut socket, &mut read, membership, times, limits).await.map_err(gone)?;
        }
    }
    match start {
        Start::Mesh(hello, name) => {
            let deadline = deadline.max(Instant::now() + MEMBER);
            let (client, source) = end_mtls(socket, (hello, &name), membership, deadline, limits).await?;
            Ok(Begun { client, source: Some(source), first: Vec::new(), workload })
        }
        _ if mode == MtlsMode::Permissive => Ok(Begun { client: Transport::Plain(socket), source: None, first: read, workload }),
        Start::End if read.is_empty() => Err(Refused::Gone),
        Start::Silence if read.is_empty() => {
            reset(&socket);
            let why = "the client has said nothing, and only workloads of the mesh are served on this port";
            Err(Refused::Fault(ConnectionFault::ClientHelloTimeout, why.into()))
        }
        _ => {
            reset(&socket);
            Err(Refused::Fault(ConnectionFault::Plaintext, UNPROVEN.into()))
        }
    }
}

/// Reads until it is known how a connection begins; all that is read stays in `read`. `patience` is for the first byte, `deadline` for all
/// of a ClientHello.
///
/// # Errors
/// When the connection fails.
async fn greeting(
    socket: &mut TcpStream,
    read: &mut Vec<u8>,
    membership: &Membership,
    (patience, deadline): (Duration, Instant),
    limits: &Limits,
) -> io::Result<Start> {
    let mut reader = Reader::new(limits.client_hello_bytes);
    let mut until = (Instant::now() + patience).min(deadline);
    loop {
        let before = read.len();
        read.reserve(2048);
        match timeout_at(until, socket.read_buf(read)).await {
            Err(_) => return Ok(Start::Silence),
            Ok(Ok(0)) => return Ok(Start::End),
            Ok(count) => count?,
        };
        match reader.push(&read[before..]) {
            Ok(Some(hello)) => {
                let name = hello.client_hello().server_name().map(|name| name.trim_end_matches('.').to_ascii_lowercase());
                let name = name.filter(|name| membership.trust_domain().is_identity(name));
                return Ok(name.map_or(Start::Other, |name| Start::Mesh(Box::new(hello), name)));
            }
            // The rest of a ClientHello follows its beginning, wherever it comes from.
            Ok(None) => until = (Instant::now() + MEMBER).min(deadline),
            Err(HelloError::NotTls | HelloError::TooLong | HelloError::Broken(_)) => return Ok(Start::Other),
        }
    }
}

async fn end_mtls(
    socket: TcpStream,
    (hello, name): (Box<Accepted>, &str),
    membership: &Membership,
    deadline: Instant,
    limits: &Limits,
) -> Result<(Transport, Identity), Refused> {
    let own = membership.own();
    let Some(own) = own.filter(|own| own.server_name == name) else {
        refuse(socket, &UNRECOGNIZED_NAME, limits).await;
        return Err(match own {
            Some(own) => {
                let why = format!("the client has asked for `{name}`, and this is `{}`", own.server_name);
                Refused::Fault(ConnectionFault::OtherIdentity, why.into())
            }
            None => {
                Refused::Fault(ConnectionFault::NoCertificate, "there is no certificate that could be shown to the client".into())
            }
        });
    };
    let handshake = StartHandshake::from_parts(*hello, socket).into_stream(own.server().clone()).into_fallible();
    let shaken = timeout_at(deadline, handshake).await.map_err(|_| Refused::fault(ConnectionFault::HandshakeTimeout))?;
    let stream = match shaken {
        Ok(stream) => stream,
        Err((error, socket)) => {
            let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
                return Err(Refused::fault(ConnectionFault::Handshake));
            };
            let why = format!("the client's certificate is not taken: {}", reason(error));
            let fault = Refusal::of(error).map_or(ConnectionFault::Handshake, fault);
            // The alert is sent. The client may have sent something meanwhile, and a reset would overtake the alert.
            refuse(socket, &[], limits).await;
            return Err(Refused::Fault(fault, why.into()));
        }
    };
    if stream.get_ref().1.alpn_protocol() == Some(PROBE) {
        // It has seen what it wanted, and goes.
        refuse(stream.into_inner().0, &[], limits).await;
        return Err(Refused::Gone);
    }
    match membership.client_of(stream.get_ref().1) {
        Some(source) => Ok((Transport::Tls(Box::new(stream.into())), source)),
        // The handshake has seen to it that there is one.
        None => Err(Refused::fault(ConnectionFault::ClientCertificateInvalid)),
    }
}

fn fault(refusal: Refusal) -> ConnectionFault {
    match refusal {
        Refusal::Absent => ConnectionFault::ClientCertificateAbsent,
        Refusal::UnknownAuthority => ConnectionFault::ClientCertificateUnknownAuthority,
        Refusal::Expired => ConnectionFault::ClientCertificateExpired,
        Refusal::NotYetValid => ConnectionFault::ClientCertificateNotYetValid,
        Refusal::Invalid => ConnectionFault::ClientCertificateInvalid,
    }
}

#[cfg(test)]
pub(crate) mod tests;
