//! The socket that clients speak to.
//!
//! One that takes all addresses of the machine has to answer each client from the address that it spoke to: the kernel tells that address
//! with each datagram and takes it with each answer. `quinn-udp` wraps the system calls for that, several datagrams in one of them.

use std::io::{self, IoSliceMut};
use std::net::IpAddr;

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::table::Pair;

/// What a datagram can have at most, and some more.
pub(super) const LARGEST: usize = 64 * 1024;
/// Datagrams that are received in one system call.
const BATCH: usize = 16;
/// What waits in the kernel until it is received, as far as the system lets us (`net.core.rmem_max`): a burst while others are served.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;

/// A listening socket.
#[derive(Debug)]
pub(crate) struct Front {
    socket: UdpSocket,
    calls: UdpSocketState,
}

/// Where datagrams are received to. Made once: memory is taken only for what has been used.
#[derive(Debug)]
pub(super) struct Batch {
    buffer: Box<[u8]>,
    received: [RecvMeta; BATCH],
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; BATCH * LARGEST].into(), received: [RecvMeta::default(); BATCH] }
    }
}

impl Front {
    /// # Errors
    /// If the system does not tell which address clients speak to.
    pub(crate) fn new(socket: UdpSocket) -> io::Result<Self> {
        let local = socket.local_addr()?;
        // It sets options for QUIC on the socket that it is shown, and one of them forbids fragments; what it is later called with
        // needs none of them. So it is shown another socket.
        let shown = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
        let calls = UdpSocketState::new(UdpSockRef::from(&shown))?;
        match local.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?,
            IpAddr::V6(ip) if ip.is_unspecified() => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            _ => {}
        }
        // What the system has by default will do.
        let _ = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER);
        Ok(Self { socket, calls })
    }

    /// Waits until something can be received. Cancel safe.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Shows what has come, one datagram after the other, to `each`.
    ///
    /// # Errors
    /// `WouldBlock` if nothing is left.
    pub(super) fn receive(&self, batch: &mut Batch, mut each: impl FnMut(Pair, &[u8])) -> io::Result<()> {
        let Batch { buffer, received } = batch;
        let mut parts = buffer.chunks_exact_mut(LARGEST);
        let mut parts: [IoSliceMut<'_>; BATCH] = std::array::from_fn(|_| IoSliceMut::new(parts.next().unwrap_or_default()));
        let call = || self.calls.recv(UdpSockRef::from(&self.socket), &mut parts, received);
        let count = self.socket.try_io(Interest::READABLE, call)?;
        for (datagram, part) in received[..count].iter().zip(&parts) {
            each(Pair { client: datagram.addr, local: datagram.dst_ip }, &part[..datagram.len]);
        }
        Ok(())
    }

    /// Sends from the address that the client spoke to. Never waits.
    ///
    /// # Errors
    /// `WouldBlock` if what was sent before has not gone out yet.
    pub(super) fn send(&self, pair: &Pair, contents: &[u8]) -> io::Result<()> {
        let transmit = Transmit { destination: pair.client, ecn: None, contents, segment_size: None, src_ip: pair.local };
        self.calls.try_send(UdpSockRef::from(&self.socket), &transmit)
    }
}
