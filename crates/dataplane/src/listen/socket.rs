//! Listening sockets, and what to say when there is none.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UdpSocket};

/// Connections that wait for `accept`; the kernel cuts it down to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Opens a socket; has to be called in a tokio runtime. Accepted sockets inherit no delay and keepalive: a client that vanished without a
/// word is noticed after two minutes, on HTTP/2 and in streams too.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // An IPv4 client is to be seen as one: `[::]` and `0.0.0.0` are two addresses.
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10)).with_retries(6);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// The same for datagrams. Without `SO_REUSEADDR`, which lets two sockets of UDP have one address.
pub(crate) fn bind_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// Why an address cannot be had, and what to do.
pub(crate) fn explain(address: SocketAddr, error: &io::Error) -> String {
    let (ip, port) = (address.ip(), address.port());
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another process: stop it or choose another port (it is tried again all the time)")
        }
        io::ErrorKind::PermissionDenied => {
            format!(
                "port {port} needs more rights than this process has: choose one above 1023 (--port-offset 8000), or grant CAP_NET_BIND_SERVICE"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            let family = if matches!(ip, IpAddr::V6(_)) { " or IPv6 is off" } else { "" };
            format!("{ip} is no address of this machine{family}: choose one in the Gateway's spec.addresses")
        }
        _ => format!("{address} cannot be opened: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn accepted_sockets_inherit_the_options() -> io::Result<()> {
        let listener = bind("127.0.0.1:0".parse().expect("an address"))?;
        let client = tokio::net::TcpStream::connect(listener.local_addr()?).await?;
        let (accepted, _) = listener.accept().await?;
        assert!(accepted.nodelay()?, "no delay");
        assert!(socket2::SockRef::from(&accepted).keepalive()?, "keepalive");
        drop(client);
        Ok(())
    }

    #[tokio::test]
    async fn an_address_in_use_is_said_to_be() -> io::Result<()> {
        let listener = bind("127.0.0.1:0".parse().expect("an address"))?;
        let address = listener.local_addr()?;
        let error = bind(address).expect_err("it is taken");
        assert!(explain(address, &error).contains("in use by another process"), "{error}");
        Ok(())
    }
}
