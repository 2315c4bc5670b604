//! A client's datagrams at one endpoint.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::front::{Front, LARGEST};
use super::table::Pair;
use crate::telemetry::{UdpDrop, UdpMetrics};

/// Replies of one client that are passed on before others have a turn.
const BURST: usize = 32;

thread_local! {
    /// Sessions take turns with it: one of them for each would be 640 MB for 10,000.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into());
}

/// A socket towards an endpoint, for one client. What the endpoint sends to it is the client's, and nobody else can send to it.
#[derive(Debug)]
pub(super) struct Flow {
    pair: Pair,
    socket: UdpSocket,
    since: Instant,
    /// When the last datagram went either way, in milliseconds after `since`.
    last: AtomicU64,
    answered: AtomicBool,
    broken: AtomicBool,
}

impl Flow {
    /// Opens the socket. Has to be called in a tokio runtime.
    ///
    /// # Errors
    /// If the system has no file or port left for it, or no way to the endpoint.
    pub(super) fn open(pair: Pair, endpoint: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(endpoint), Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_nonblocking(true)?;
        socket.connect(&endpoint.into())?;
        Ok(Self {
            pair,
            socket: UdpSocket::from_std(socket.into())?,
            since: Instant::now(),
            last: AtomicU64::new(0),
            answered: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    /// Sends to the endpoint. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` if what was sent before has not gone out yet. Any other one is about the endpoint, mostly that an earlier datagram
    /// did not reach it; this one has not been sent.
    pub(super) fn send(&self, datagram: &[u8], now: Instant) -> io::Result<()> {
        // Not by tokio, which has to be told first by the system that a new socket can be written to.
        let socket = SockRef::from(&self.socket);
        match socket.send(datagram) {
            // An earlier one was too large for the way: the system knows now how to cut this one.
            Err(error) if quinn_udp::is_msg_size_err(&error) => socket.send(datagram)?,
            sent => sent?,
        };
        self.touch(now);
        Ok(())
    }

    /// Passes on what the endpoint sends, until it cannot be reached; says why.
    pub(super) async fn answer(&self, front: &Front, metrics: &UdpMetrics) -> io::Error {
        let error = loop {
            let passed = match self.socket.readable().await {
                Ok(()) => BUFFER.with_borrow_mut(|buffer| self.pass_on(buffer, front, metrics)),
                Err(error) => Err(error),
            };
            match passed {
                Ok(false) => {}
                // Tokio would not let others run as long as the socket is ready.
                Ok(true) => tokio::task::yield_now().await,
                Err(error) => break error,
            }
        };
        self.broken.store(true, Relaxed);
        error
    }

    /// Says whether more may be waiting.
    fn pass_on(&self, buffer: &mut [u8], front: &Front, metrics: &UdpMetrics) -> io::Result<bool> {
        for _ in 0..BURST {
            let length = match self.socket.try_recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if quinn_udp::is_msg_size_err(&error) => continue,
                Err(error) => return Err(error),
            };
            self.answered.store(true, Relaxed);
            self.touch(Instant::now());
            match front.send(&self.pair, &buffer[..length]) {
                Ok(()) => metrics.sent(length),
                Err(_) => metrics.dropped(UdpDrop::Client),
            }
        }
        Ok(true)
    }

    fn touch(&self, now: Instant) {
        let millis = now.saturating_duration_since(self.since).as_millis();
        self.last.store(u64::try_from(millis).unwrap_or(u64::MAX), Relaxed);
    }

    /// How long nothing has gone either way.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since + Duration::from_millis(self.last.load(Relaxed)))
    }

    /// Whether the endpoint has ever answered.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// Whether the endpoint cannot be reached.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }
}
