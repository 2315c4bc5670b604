//! Both ends of the connections: a backend that does what the first byte says, and clients that count.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned};

use crate::fault::{Context as _, Fault};

/// The server name of every handshake.
pub(super) const HOST: &str = "bench.test";
/// How long bytes are counted.
pub(super) const SLICE: Duration = Duration::from_millis(1000);
/// How long a gateway may take to end what was begun.
pub(super) const SETTLE: Duration = Duration::from_millis(100);
/// Connections at once that download.
const STREAMS: usize = 2;
/// Connections, one after the other, whose cost is counted.
pub(super) const CONNECTIONS: u32 = 100;
/// What OpenSSL's servers give of themselves; a gateway that gave fewer would have an advantage.
const TICKETS: u32 = 2;
const ROUND_TRIPS: usize = 3000;
const MESSAGE: usize = 64;
const BUFFER: usize = 256 * 1024;
/// Sent first: bytes without end, please.
const DOWNLOAD: u8 = b'd';
/// Sent first: every message back, please.
const ECHO: u8 = b'e';

/// Dropping it removes the folder.
#[derive(Debug)]
pub(super) struct Far {
    folder: PathBuf,
    backend: SocketAddr,
    client: Arc<ClientConfig>,
    /// PEM, of ECDSA with P-256.
    pub(super) chain: String,
    /// PEM.
    pub(super) key: String,
    count: AtomicUsize,
}

impl Far {
    pub(super) fn start() -> Result<Self, Fault> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context(|| "opening a backend".to_owned())?;
        let backend = listener.local_addr().context(|| "opening a backend".to_owned())?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // The client counts what it lost.
                thread::spawn(move || drop(serve(stream)));
            }
        });
        let certificate = |error: rcgen::Error| Fault::said(format!("making a certificate: {error}"));
        let made = rcgen::generate_simple_self_signed(vec![HOST.to_owned()]).map_err(certificate)?;
        let fault = |error: rustls::Error| Fault::said(format!("making a TLS client: {error}"));
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).map_err(fault)?;
        // Nothing is left to the gateways' choice: what rustls and OpenSSL ask for first, and no other version, suite or group.
        let provider = CryptoProvider {
            cipher_suites: vec![ring::cipher_suite::TLS13_AES_256_GCM_SHA384],
            kx_groups: vec![ring::kx_group::X25519],
            ..ring::default_provider()
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(fault)?;
        let mut client = builder.with_root_certificates(roots).with_no_client_auth();
        client.resumption = Resumption::disabled();
        Ok(Self {
            folder: std::env::temp_dir().join(format!("isthmus-bench-l4-{}", std::process::id())),
            backend,
            client: Arc::new(client),
            chain: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
            count: AtomicUsize::new(0),
        })
    }

    pub(super) fn backend(&self) -> SocketAddr {
        self.backend
    }

    /// A new folder.
    pub(super) fn folder(&self, name: &str) -> Result<PathBuf, Fault> {
        let folder = self.folder.join(format!("{}-{name}", self.count.fetch_add(1, Ordering::Relaxed)));
        fs::create_dir_all(&folder).context(|| format!("making the folder {}", folder.display()))?;
        Ok(folder)
    }

    /// How many bytes come in a slice.
    pub(super) fn download(&self, from: SocketAddr) -> io::Result<f64> {
        count_all(|| connect(from))
    }

    /// The same with TLS.
    pub(super) fn download_tls(&self, from: SocketAddr) -> io::Result<f64> {
        count_all(|| self.connect_tls(from))
    }

    /// Makes [`CONNECTIONS`], each with one message there and back, and ends each from this side; says how many.
    pub(super) fn connections(&self, at: SocketAddr) -> io::Result<f64> {
        for _ in 0..CONNECTIONS {
            let mut stream = connect(at)?;
            ask(&mut stream)?;
            stream.shutdown(Shutdown::Write)?;
            expect_end(stream.read(&mut [0; MESSAGE])?)?;
        }
        Ok(f64::from(CONNECTIONS))
    }

    /// The same with whole handshakes, all of the same content.
    pub(super) fn handshakes(&self, at: SocketAddr) -> io::Result<f64> {
        for _ in 0..CONNECTIONS {
            let mut stream = self.connect_tls(at)?;
            ask(&mut stream)?;
            stream.conn.send_close_notify();
            stream.flush()?;
            let StreamOwned { mut conn, mut sock } = stream;
            sock.shutdown(Shutdown::Write)?;
            // With the gateway's last alert or without: nginx has none for a client that ends first.
            while conn.read_tls(&mut sock)? > 0 {
                expect_end(conn.process_new_packets().map_err(io::Error::other)?.plaintext_bytes_to_read())?;
            }
            let (kind, tickets) = (conn.handshake_kind(), conn.tls13_tickets_received());
            if kind != Some(HandshakeKind::Full) || tickets != TICKETS {
                return Err(io::Error::other(format!("not a whole handshake with {TICKETS} tickets: {kind:?}, {tickets}")));
            }
        }
        Ok(f64::from(CONNECTIONS))
    }

    /// A message there and back on a kept connection, in microseconds; the median.
    pub(super) fn round_trip(&self, at: SocketAddr) -> io::Result<f64> {
        let mut stream = connect(at)?;
        stream.write_all(&[ECHO])?;
        let mut message = [7; MESSAGE];
        let mut took = Vec::with_capacity(ROUND_TRIPS);
        for _ in 0..ROUND_TRIPS {
            let start = Instant::now();
            stream.write_all(&message)?;
            stream.read_exact(&mut message)?;
            took.push(start.elapsed());
        }
        took.sort_unstable();
        Ok(took[ROUND_TRIPS / 2].as_secs_f64() * 1e6)
    }

    fn connect_tls(&self, at: SocketAddr) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
        let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
        let session = ClientConnection::new(self.client.clone(), name).map_err(io::Error::other)?;
        Ok(StreamOwned::new(session, connect(at)?))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // A folder that stays behind in the system's temporary folder harms nobody.
        let _left = fs::remove_dir_all(&self.folder);
    }
}

fn connect(at: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(at)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// One message there and back.
fn ask(stream: &mut (impl io::Read + io::Write)) -> io::Result<()> {
    stream.write_all(&[&[ECHO], &[7; MESSAGE][..]].concat())?;
    stream.read_exact(&mut [0; MESSAGE])
}

fn expect_end(read: usize) -> io::Result<()> {
    if read == 0 { Ok(()) } else { Err(io::Error::other("bytes that nobody asked for")) }
}

/// Bytes of all connections within [`SLICE`].
fn count_all<S: io::Read + io::Write + Send>(open: impl Fn() -> io::Result<S>) -> io::Result<f64> {
    let mut streams = (0..STREAMS).map(|_| open()).collect::<io::Result<Vec<_>>>()?;
    for stream in &mut streams {
        stream.write_all(&[DOWNLOAD])?;
        stream.flush()?;
        // Handshakes, and what a connection begins with, are no bytes.
        stream.read_exact(&mut [0; 1])?;
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers: Vec<_> = streams.into_iter().map(|stream| scope.spawn(|| count(stream, &over))).collect();
        thread::sleep(SLICE);
        over.store(true, Ordering::Relaxed);
        let counts = readers.into_iter().map(|reader| reader.join().unwrap_or_else(|_| Err(io::Error::other("a reader broke"))));
        counts.sum()
    })
}

fn count(mut stream: impl io::Read, over: &AtomicBool) -> io::Result<f64> {
    let (mut buffer, mut bytes) = (vec![0; BUFFER], 0_u64);
    while !over.load(Ordering::Relaxed) {
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes += read as u64,
        }
    }
    Ok(bytes as f64)
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut what = [0; 1];
    stream.read_exact(&mut what)?;
    if what == [DOWNLOAD] {
        let buffer = vec![b'x'; BUFFER];
        loop {
            stream.write_all(&buffer)?;
        }
    }
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}
