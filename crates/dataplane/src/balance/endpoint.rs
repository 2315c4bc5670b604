//! An endpoint: how it is reached, and how much is under way there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pingora_core::protocols::TcpKeepalive;
use pingora_core::upstreams::peer::HttpPeer;

use crate::proxy::defaults;

/// What is spoken with an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    /// HTTP/1.1
    H1,
    /// HTTP/2 with prior knowledge.
    H2,
}

/// An endpoint of a backend.
#[derive(Debug)]
pub(crate) struct EndpointState {
    address: SocketAddr,
    in_flight: AtomicUsize,
    h1: HttpPeer,
    h2: HttpPeer,
}

/// A request that is under way at an endpoint; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<EndpointState>);

impl EndpointState {
    pub(super) fn new(address: SocketAddr) -> Arc<Self> {
        Arc::new(Self { address, in_flight: AtomicUsize::new(0), h1: peer(address, Wire::H1), h2: peer(address, Wire::H2) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &SocketAddr {
        &self.address
    }

    /// Requests that are under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// How it is reached. A copy is to be changed by timeouts at most, so that its connections can be shared.
    pub(crate) fn peer(&self, wire: Wire) -> &HttpPeer {
        match wire {
            Wire::H1 => &self.h1,
            Wire::H2 => &self.h2,
        }
    }
}

impl InFlight {
    pub(super) fn new(endpoint: &Arc<EndpointState>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self(endpoint.clone())
    }
}

impl std::ops::Deref for InFlight {
    type Target = EndpointState;
    fn deref(&self) -> &EndpointState {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// All that does not depend on the request. A socket address is never resolved, so this cannot fail (a name could, by panic).
fn peer(address: SocketAddr, wire: Wire) -> HttpPeer {
    let mut peer = HttpPeer::new(address, false, String::new());
    // Neither ALPN nor the kind of connection is part of Pingora's pool key.
    peer.group_key = match wire {
        Wire::H1 => 1,
        Wire::H2 => 2,
    };
    let options = &mut peer.options;
    options.connection_timeout = Some(defaults::CONNECT);
    options.total_connection_timeout = Some(defaults::CONNECT);
    options.read_timeout = Some(defaults::IDLE);
    options.write_timeout = Some(defaults::IDLE);
    options.idle_timeout = Some(defaults::POOL_IDLE);
    options.max_h2_streams = defaults::H2_STREAMS;
    options.h2_stream_window_size = Some(defaults::H2_STREAM_WINDOW);
    options.h2_connection_window_size = Some(defaults::H2_CONNECTION_WINDOW);
    let (idle, interval, count) = defaults::TCP_KEEPALIVE;
    options.tcp_keepalive = Some(TcpKeepalive {
        idle,
        interval,
        count,
        #[cfg(target_os = "linux")]
        user_timeout: std::time::Duration::ZERO,
    });
    match wire {
        Wire::H1 => options.set_http_version(1, 1),
        Wire::H2 => options.set_http_version(2, 2),
    }
    peer
}

#[cfg(test)]
mod tests {
    use pingora_core::upstreams::peer::{ALPN, Peer};

    use super::*;

    #[test]
    fn no_timeout_is_missing_and_the_kinds_of_connection_do_not_mix() {
        let endpoint = EndpointState::new(([127, 0, 0, 1], 80).into());
        for (wire, alpn) in [(Wire::H1, ALPN::H1), (Wire::H2, ALPN::H2)] {
            let peer = endpoint.peer(wire);
            let options = &peer.options;
            for timeout in [
                options.connection_timeout,
                options.total_connection_timeout,
                options.read_timeout,
                options.write_timeout,
                options.idle_timeout,
            ] {
                assert!(timeout.is_some());
            }
            assert_eq!(options.alpn, alpn);
            assert!(options.max_h2_streams >= 100);
        }
        assert_ne!(endpoint.peer(Wire::H1).reuse_hash(), endpoint.peer(Wire::H2).reuse_hash());
        assert_eq!(endpoint.peer(Wire::H1).reuse_hash(), endpoint.peer(Wire::H1).clone().reuse_hash());
    }
}
