//! The PROXY protocol, versions 1 and 2: what a connection begins with so that its receiver learns who the client is.
//!
//! Framing is done here, since not one byte of what follows a header may be taken from the socket; `ppp` reads and builds the headers.
//! See <https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>.

mod read;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use isthmus_routing::ProxyProtocol;
use ppp::{v1, v2};

pub(crate) use read::{ProxyProtocolError, read};

/// The two ends of the client's connection to the first proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ends {
    /// The client.
    pub(crate) source: SocketAddr,
    /// What it dialled.
    pub(crate) destination: SocketAddr,
}

impl Ends {
    /// IPv4 addresses that are written as IPv6 ones become IPv4 ones.
    fn new(source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source: canonical(source), destination: canonical(destination) }
    }
}

/// The header that tells of a client's connection. If its ends are of two families, the IPv4 one is written as the IPv6 address that it is
/// mapped to, as HAProxy does it, so that the client is known all the same.
pub(crate) fn header(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (mut source, mut destination) = (canonical(source), canonical(destination));
    if source.is_ipv4() != destination.is_ipv4() {
        (source, destination) = (mapped(source), mapped(destination));
    }
    match version {
        ProxyProtocol::V1 => v1::Addresses::from((source, destination)).to_string().into_bytes(),
        ProxyProtocol::V2 => {
            let command = v2::Version::Two | v2::Command::Proxy;
            v2::Builder::with_addresses(command, v2::Protocol::Stream, (source, destination))
                .build()
                .expect("two addresses are far shorter than the 64 KiB that a header may have")
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn mapped(address: SocketAddr) -> SocketAddr {
    let ip: Ipv6Addr = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    SocketAddr::new(ip.into(), address.port())
}

#[cfg(test)]
mod tests;
