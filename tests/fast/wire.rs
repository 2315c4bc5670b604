//! Raw bytes on real sockets: each trap that was found by running Pingora, and the bad input that a port on the internet gets.

mod bodies;
mod http2;
mod limits;
mod listeners;
mod local_responses;
mod malformed;
mod proxy_protocol;
mod server_names;
mod streams;
mod tls_hello;
mod upgrades;
mod upstream;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use isthmus_dataplane::Limits;
use isthmus_routing::{BackendProtocol, Snapshot};
use isthmus_tests::backend::{PORT, leads_to};
use isthmus_tests::bed::{Bed, options, own_address};

/// Limits that a test can wait for, and that a busy machine does not pass by itself.
fn short() -> Limits {
    Limits {
        handshake: Duration::from_millis(1500),
        header: Duration::from_millis(1200),
        fresh: Duration::from_millis(1200),
        idle: Duration::from_millis(3000),
        ..Limits::default()
    }
}

/// A bed that leads to one HTTP/1.1 backend, and where it listens.
async fn before(backend: SocketAddr) -> (Bed, SocketAddr) {
    before_with(backend, short(), |_| {}).await
}

async fn before_with(backend: SocketAddr, limits: Limits, edit: impl FnOnce(&mut Snapshot)) -> (Bed, SocketAddr) {
    serve(limits, |address| {
        let mut snapshot = leads_to(address, &[backend], BackendProtocol::Http);
        edit(&mut snapshot);
        snapshot
    })
    .await
}

async fn serve(limits: Limits, snapshot: impl FnOnce(IpAddr) -> Snapshot) -> (Bed, SocketAddr) {
    let address = own_address();
    let bed = Bed::start(options(limits)).await;
    bed.serve(snapshot(address)).await;
    (bed, SocketAddr::new(address, PORT))
}
