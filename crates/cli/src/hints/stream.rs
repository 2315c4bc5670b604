//! Something to try with a TLSRoute, a TCPRoute or a UDPRoute.

use std::net::SocketAddr;

use isthmus_routing::{Hostname, Listener, Protocol};

use super::{curl, example};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Our echo, which speaks HTTP on streams and takes any datagram.
    Echo,
    /// A server of DNS.
    Dns,
    /// Anybody.
    Other,
}

/// A line that shows who answers.
pub(super) fn hint(address: SocketAddr, listener: &Listener, hostname: Option<&Hostname>, peer: Peer) -> Option<String> {
    let (ip, port) = (address.ip(), address.port());
    Some(match listener.protocol {
        Protocol::Tcp | Protocol::Tls if peer == Peer::Echo => curl(address, listener, hostname, "/", ""),
        Protocol::Tcp => format!("nc {ip} {port}"),
        Protocol::Tls => {
            let name = hostname.map(|hostname| format!(" -servername {}", example(hostname))).unwrap_or_default();
            format!("openssl s_client -connect {address}{name}")
        }
        Protocol::Udp if peer == Peer::Dns => format!("dig @{ip} -p {port} example.com"),
        Protocol::Udp => format!("echo hello | nc -u -w 1 {ip} {port}"),
        Protocol::Http | Protocol::Https => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_fit_what_is_spoken() {
        for (address, protocol, hostname, peer, expected) in [
            ("127.0.0.1:5432", Protocol::Tcp, None, Peer::Echo, "curl http://127.0.0.1:5432/"),
            ("127.0.0.1:5432", Protocol::Tcp, None, Peer::Other, "nc 127.0.0.1 5432"),
            (
                "127.0.0.1:8443",
                Protocol::Tls,
                Some("db.example"),
                Peer::Echo,
                "curl -k --resolve db.example:8443:127.0.0.1 https://db.example:8443/",
            ),
            ("127.0.0.1:8443", Protocol::Tls, Some("db.localhost"), Peer::Echo, "curl -k https://db.localhost:8443/"),
            (
                "[::1]:8443",
                Protocol::Tls,
                Some("*.db.example"),
                Peer::Other,
                "openssl s_client -connect [::1]:8443 -servername www.db.example",
            ),
            ("127.0.0.1:8443", Protocol::Tls, None, Peer::Other, "openssl s_client -connect 127.0.0.1:8443"),
            ("127.0.0.1:8053", Protocol::Udp, None, Peer::Dns, "dig @127.0.0.1 -p 8053 example.com"),
            ("127.0.0.1:8053", Protocol::Udp, None, Peer::Echo, "echo hello | nc -u -w 1 127.0.0.1 8053"),
            ("127.0.0.1:9000", Protocol::Udp, None, Peer::Other, "echo hello | nc -u -w 1 127.0.0.1 9000"),
        ] {
            let hostname = hostname.map(|hostname: &str| hostname.parse().unwrap());
            let listener = Listener::new("l", 80, protocol);
            assert_eq!(hint(address.parse().unwrap(), &listener, hostname.as_ref(), peer).as_deref(), Some(expected));
        }
    }
}
