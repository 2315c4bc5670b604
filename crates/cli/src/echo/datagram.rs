//! The echo of a UDP port: each datagram is answered with one that says who answers and what came, as `echo-basic` does.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;

use super::Identity;

/// The largest datagram there can be.
const LARGEST: usize = 65_535;

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram {
    /// What came; bytes that are no UTF-8 are replaced.
    pub request: String,
    /// The namespace of the Service.
    pub namespace: String,
    /// The Service.
    pub service: String,
    /// The pod that the echo plays.
    pub pod: String,
    /// From where the datagram came to the echo: the gateway's end, which stays the same for a session.
    pub client: SocketAddr,
}

/// Never ends by itself.
pub(super) async fn serve(socket: UdpSocket, identity: Identity) {
    let mut buffer = vec![0; LARGEST];
    loop {
        // Errors are of datagrams that were sent before (nobody listens there any more), not of the socket.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let mut answer = answer(&identity, &buffer[..length], client);
        answer.push('\n');
        // A client that is gone, or a request so long that no answer with it fits.
        let _ = socket.send_to(answer.as_bytes(), client).await;
    }
}

fn answer(identity: &Identity, request: &[u8], client: SocketAddr) -> String {
    let answer = Datagram {
        request: String::from_utf8_lossy(request).into_owned(),
        namespace: identity.namespace.clone(),
        service: identity.service.clone(),
        pod: identity.pod.clone(),
        client,
    };
    // A structure of strings always has a JSON form.
    serde_json::to_string(&answer).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::super::Echo;
    use super::*;

    #[tokio::test]
    async fn datagrams_are_answered_to_whom_they_came_from() {
        let identity = Identity { namespace: "x".into(), service: "dns".into(), pod: "dns-echo".into() };
        let echo = Echo::start_udp(identity).await.unwrap();
        let mut buffer = [0; 1024];
        for sent in [&b"one"[..], b"", b"\xff"] {
            let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            client.connect(echo.address()).await.unwrap();
            client.send(sent).await.unwrap();
            let length = client.recv(&mut buffer).await.unwrap();
            let answer: Datagram = serde_json::from_slice(&buffer[..length]).unwrap();
            assert_eq!(answer.request, String::from_utf8_lossy(sent));
            assert_eq!((answer.service.as_str(), answer.pod.as_str(), answer.namespace.as_str()), ("dns", "dns-echo", "x"));
            assert_eq!(answer.client, client.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn one_that_is_dropped_frees_its_port() {
        let echo = Echo::start_udp(Identity::default()).await.unwrap();
        let address = echo.address();
        drop(echo);
        for _ in 0..100 {
            if UdpSocket::bind(address).await.is_ok() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{address} is still taken");
    }
}
