//! A Gateway's snapshot in the controller -> the same snapshot in each of its proxies, the mesh's -> its part in each sidecar, and what became
//! of it back.
//!
//! A proxy ([`client`]) opens one long HTTP/2 stream over TLS to the controller ([`server`]), proves who it is with a token, and says what
//! it holds. It is sent the items that differ and a commit with a version, swaps once, and acknowledges when its data plane has
//! served that version. Versions are hashes of the content, so whoever leads sends the same ones, and a proxy that reconnects with
//! nothing changed is sent nothing.
//!
//! A sidecar says on its stream which Services its workload calls, and gets what concerns these. A proxy that has an identity asks for its
//! certificate there: the token has proven who it is, and its key stays with it.
//!
//! Messages are frames of JSON in both directions, see `frame` and `message`. A dead peer is noticed by HTTP/2's own pings.

#![forbid(unsafe_code)]

mod body;
pub mod client;
mod frame;
mod message;
pub mod server;
#[cfg(test)]
mod tests;

use std::time::Duration;

/// The name in the controller's certificate. It is fixed, so that neither namespaces nor addresses matter.
pub const SERVER_NAME: &str = "isthmus-controller.isthmus.internal";

/// Where the stream is on the server.
const PATH: &str = "/isthmus.push/v1/stream";
/// A response's header with the address of whom to ask instead.
const LEADER: &str = "isthmus-leader";
/// The seconds of `retry-after` where there will be a leader at any moment.
const AT_ONCE: &str = "1";
/// The same where this proxy has to wait for its turn. Any other 503 does not pass by itself soon, and has no such header.
const ITS_TURN: &str = "2";
/// This release, for the other side's log.
const PACKAGE: &str = env!("CARGO_PKG_VERSION");

/// How a dead peer is noticed: by pings of HTTP/2, which a peer answers however much it has to do.
#[derive(Debug, Clone, Copy)]
pub struct Ping {
    /// How often it is asked whether it is there.
    pub every: Duration,
    /// How long it may take to say so.
    pub patience: Duration,
}

/// Noticed after 15 s.
impl Default for Ping {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), patience: Duration::from_secs(10) }
    }
}
