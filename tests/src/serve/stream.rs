//! Connections with TLS or without, and datagrams, with a line of text in them.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpStream, UdpSocket};

use super::equal;
use crate::case::{Exchange, Speech};
use crate::certificate::Pair;
use crate::client::{shown, tls_stream_with};
use crate::stand_in::GREETING;

/// How long an answer may take before it counts as lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long no answer to a datagram counts as none.
const SILENCE: Duration = Duration::from_millis(700);

/// Who answered.
#[derive(Debug)]
pub(super) struct Heard {
    /// `namespace/name` of a Service.
    pub(super) backend: String,
    /// Its port.
    port: u16,
    certificate: Option<CertificateDer<'static>>,
}

/// Sends the exchange as often as it says. The last answer, if there is any and one is expected.
pub(super) async fn check(
    address: SocketAddr,
    exchange: &Exchange,
    own: Option<&Pair>,
    wanted: Option<&Pair>,
) -> Result<Option<Heard>, String> {
    if !exchange.expect.shares.is_empty() {
        return shares(address, exchange, own).await.map(|()| None);
    }
    let mut last = None;
    for _ in 0..exchange.times.unwrap_or(1) {
        last = match (send(address, exchange, own).await, exchange.expect.refused) {
            (Err(_), true) => None,
            (Ok(heard), true) => return Err(format!("expected no answer, found {heard:?}")),
            (Err(fault), false) => return Err(fault),
            (Ok(heard), false) => Some(heard),
        };
        if let (Some(heard), expect) = (&last, &exchange.expect) {
            if expect.backend.is_some() {
                equal("backend", expect.backend.as_ref(), Some(&heard.backend))?;
            }
            if expect.backend_port.is_some() {
                equal("backend port", expect.backend_port.as_ref(), Some(&heard.port))?;
            }
            super::is_certificate(wanted, heard.certificate.as_ref())?;
        }
    }
    Ok(last)
}

async fn shares(address: SocketAddr, exchange: &Exchange, own: Option<&Pair>) -> Result<(), String> {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let times = exchange.times.ok_or("shares need `times`")?;
    for _ in 0..times {
        let outcome = match send(address, exchange, own).await {
            Ok(heard) => heard.backend,
            Err(_) => "refused".to_owned(),
        };
        *counts.entry(outcome).or_default() += 1;
    }
    super::compare_shares(exchange, times, counts)
}

/// # Errors
/// Whatever keeps the answer from coming.
async fn send(address: SocketAddr, exchange: &Exchange, own: Option<&Pair>) -> Result<Heard, String> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let line = format!("{GREETING} {}\n", NEXT.fetch_add(1, Ordering::Relaxed));
    let (answer, certificate) = match exchange.speech() {
        Speech::Udp => (datagram(address, &line).await?, None),
        Speech::Tls(name) => {
            let stream = connect(address).await?;
            let handshake = tls_stream_with(stream, name.unwrap_or_default(), &[], own);
            let stream = patient("a handshake", handshake).await?;
            let certificate = shown(&stream);
            (patient("an answer", talk(stream, &line)).await?, certificate)
        }
        Speech::Tcp | Speech::Http => (patient("an answer", talk(connect(address).await?, &line)).await?, None),
    };
    let (who, received) = answer.split_once(' ').ok_or_else(|| format!("the backend says `{answer}`"))?;
    equal("what the backend received", Some(&line.as_str()), Some(&received))?;
    let (backend, port) = who.split_once(':').ok_or_else(|| format!("the backend says `{answer}`"))?;
    let port = port.split('/').next().unwrap_or_default().parse().map_err(|_| format!("the backend says `{answer}`"))?;
    Ok(Heard { backend: backend.to_owned(), port, certificate })
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn patient<T>(what: &str, wait: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    tokio::time::timeout(PATIENCE, wait).await.map_err(|_| format!("no {what} within {PATIENCE:?}"))?
}

/// Sends a line, reads one, then ends its half and waits for the other's end.
async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin, line: &str) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("the connection: {error}");
    let mut stream = BufReader::new(stream);
    stream.write_all(line.as_bytes()).await.map_err(fault)?;
    stream.flush().await.map_err(fault)?;
    let mut answer = String::new();
    if stream.read_line(&mut answer).await.map_err(fault)? == 0 {
        return Err("the connection is closed without an answer".to_owned());
    }
    stream.shutdown().await.map_err(fault)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.map_err(|error| format!("the end of the connection: {error}"))?;
    if rest.is_empty() { Ok(answer) } else { Err(format!("after the answer came {rest:?}")) }
}

async fn datagram(address: SocketAddr, line: &str) -> Result<String, String> {
    let fault = |error: std::io::Error| format!("the datagram: {error}");
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(fault)?;
    socket.connect(address).await.map_err(fault)?;
    socket.send(line.as_bytes()).await.map_err(fault)?;
    let mut buffer = vec![0; 2048];
    let received = tokio::time::timeout(SILENCE, socket.recv(&mut buffer));
    let length = received.await.map_err(|_| format!("no answer within {SILENCE:?}"))?.map_err(fault)?;
    String::from_utf8(buffer[..length].to_vec()).map_err(|_| "an answer that is no text".to_owned())
}
