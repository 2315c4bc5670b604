//! Where a port is opened, and how what comes on it begins.

use std::fmt;
use std::net::SocketAddr;

use isthmus_routing::{Protocol, Transport};

/// What a listening socket is opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Bind {
    /// The address as the Gateway, or the Service, has it.
    pub(crate) address: SocketAddr,
    /// What carries the bytes: one number is two ports.
    pub(crate) transport: Transport,
}

impl Bind {
    /// For connections.
    pub(crate) fn tcp(address: SocketAddr) -> Self {
        Self { address, transport: Transport::Tcp }
    }
}

/// `127.0.0.1:80`, `127.0.0.1:53/UDP`
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.transport {
            Transport::Tcp => self.address.fmt(f),
            Transport::Udp => write!(f, "{}/UDP", self.address),
        }
    }
}

/// How whatever comes on a port begins, which is the same for all listeners of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Speech {
    /// With a request, or the preface of HTTP/2.
    Http,
    /// With a ClientHello, whose server name says which listener it is for.
    Tls,
    /// With any bytes.
    Tcp,
    /// It is datagrams.
    Udp,
}

impl Speech {
    /// Of a listener.
    pub(crate) fn of(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Http => Self::Http,
            Protocol::Https | Protocol::Tls => Self::Tls,
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
        }
    }

    /// As a person would say it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}
