//! What connections are redirected to, and where one was going.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use super::Side;
use crate::StartError;
use crate::listen::socket::bind;

/// A socket that is open, and where.
pub(crate) type Opened = (Side, (SocketAddr, TcpListener));

/// Opens what connections are redirected to.
///
/// # Errors
/// When one of the addresses cannot be had.
pub(crate) fn open(options: &crate::Capture) -> Result<Vec<Opened>, StartError> {
    let open = |side, address: &SocketAddr| {
        let bound = bind(*address).and_then(|listener| Ok((listener.local_addr()?, listener)));
        let bound = bound.map_err(|source| StartError::Capture { address: *address, source })?;
        Ok((side, bound))
    };
    let outbound = options.outbound.iter().map(|address| open(Side::Outbound, address));
    outbound.chain(options.inbound.iter().map(|address| open(Side::Inbound, address))).collect()
}

/// Finds out where a connection was going before it was redirected.
pub(crate) type Original = Arc<dyn Fn(&TcpStream) -> io::Result<SocketAddr> + Send + Sync>;

/// As the kernel knows it (`SO_ORIGINAL_DST`). The question is put in the version of IP that the socket has: one of `[::]` that takes IPv4
/// too would get no answer, which is why there is none.
///
/// # Errors
/// When it was not redirected, or that is not known.
pub(crate) fn original_destination(socket: &TcpStream) -> io::Result<SocketAddr> {
    let local = socket.local_addr()?;
    let asked = SockRef::from(socket);
    let original = if local.is_ipv4() { asked.original_dst_v4() } else { asked.original_dst_v6() }?;
    // Where connections are tracked, one that nothing has redirected was going here.
    let original = original.as_socket().filter(|original| *original != local).map(plain);
    original.ok_or_else(|| io::Error::new(io::ErrorKind::AddrNotAvailable, "it was not redirected"))
}

/// Without what only addresses of a link need, so that it is equal to the same address of a configuration.
fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => address,
        _ => SocketAddr::new(address.ip(), address.port()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_not_redirected_was_going_nowhere() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address).await else { continue };
            let _client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("listening");
            let (socket, _) = listener.accept().await.expect("connected");
            assert!(original_destination(&socket).is_err(), "{address}");
        }
    }
}
