//! What becomes of bytes that were passed on when the side that they are of breaks off.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls_pki_types::PrivateKeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::shared_port::trusting_anybody;
use super::{SOON, reset};
use crate::Options;
use crate::connection::transport::Transport;
use crate::limits::Limits;
use crate::stream::splice::{Side, Splice};
use crate::telemetry::{StreamEnd, Telemetry};

/// More than what the receiving system takes unread, and less than what all systems on the way keep.
const MUCH: usize = 200 * 1024;

async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let near = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("it listens");
    let (far, _) = listener.accept().await.expect("somebody came");
    (near, far)
}

/// Our end of a connection under TLS, and the other one.
async fn encrypted() -> (Transport, TlsStream<TcpStream>) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from(made.signing_key);
    let server = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions();
    let server = server.expect("ring has suites").with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).expect("they belong together");
    let (near, far) = sockets().await;
    let connector = TlsConnector::from(trusting_anybody());
    let far = connector.connect("a.test".try_into().expect("a name"), far);
    let (near, far) = tokio::join!(TlsAcceptor::from(Arc::new(server)).accept(near), far);
    (Transport::Tls(Box::new(near.expect("a handshake").into())), far.expect("a handshake"))
}

/// As [`crate::stream::Streams::serve`] has it.
async fn run(mut splice: Splice) -> (StreamEnd, (u64, u64)) {
    let (limits, telemetry) = (Limits::default(), Telemetry::start(&Options::default()).expect("nothing to open"));
    let gateway = super::bed::gateway();
    let listener = telemetry.listener(&gateway, "stream");
    let end = splice.run(&limits, listener.unrouted_streams()).await;
    let moved = match end {
        StreamEnd::ClientReset => splice.break_off(Side::Client, &limits).await,
        StreamEnd::EndpointReset => splice.break_off(Side::Endpoint, &limits).await,
        _ => splice.moved(),
    };
    (end, moved)
}

/// Waits and then reads to the end; what came, and how it ended.
async fn drain(stream: &mut (impl AsyncRead + Unpin)) -> (usize, Result<(), ErrorKind>) {
    sleep(Duration::from_millis(600)).await;
    let (mut count, mut bytes) = (0, vec![0; 64 * 1024]);
    loop {
        match timeout(SOON, stream.read(&mut bytes)).await.expect("in time") {
            Ok(0) => return (count, Ok(())),
            Ok(read) => {
                assert!(bytes[..read].iter().all(|byte| *byte == 7));
                count += read;
            }
            Err(error) => return (count, Err(error.kind())),
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_cut_arrives_as_far_as_it_came() {
    for (encrypts, how) in [(true, ErrorKind::UnexpectedEof), (false, ErrorKind::ConnectionReset)] {
        for resets in [false, true] {
            let (endpoint, mut server) = encrypted().await;
            let splice = |client| tokio::spawn(run(Splice::new(client, endpoint, Vec::new())));
            let serve = async {
                server.write_all(&vec![7; MUCH]).await.expect("is taken");
                server.flush().await.expect("is taken");
                let (mut socket, _) = server.into_inner();
                if resets {
                    // What it has sent has come then.
                    sleep(Duration::from_millis(300)).await;
                    reset(&socket);
                    return None;
                }
                socket.shutdown().await.expect("ends");
                // It has unread tickets, which would make a reset of its end.
                Some(socket)
            };
            let (running, (seen, _open)) = if encrypts {
                let (client, mut far) = encrypted().await;
                (splice(client), tokio::join!(drain(&mut far), serve))
            } else {
                let (client, mut far) = sockets().await;
                (splice(Transport::Plain(client)), tokio::join!(drain(&mut far), serve))
            };
            assert_eq!(seen, (MUCH, Err(how)), "TLS: {encrypts}, reset: {resets}");
            let (end, moved) = timeout(SOON, running).await.expect("in time").expect("no panic");
            assert_eq!((end, moved), (StreamEnd::EndpointReset, (0, MUCH as u64)), "TLS: {encrypts}, reset: {resets}");
        }
    }
}

#[tokio::test]
async fn who_was_taken_leave_of_need_not_take_leave() {
    let (client, mut far) = encrypted().await;
    let (endpoint, mut server) = sockets().await;
    let running = tokio::spawn(run(Splice::new(client, Transport::Plain(endpoint), Vec::new())));
    server.write_all(&[7; 10]).await.expect("is taken");
    server.shutdown().await.expect("ends");
    assert_eq!(drain(&mut far).await, (10, Ok(())));
    far.into_inner().0.shutdown().await.expect("ends, with no word in TLS");
    assert_eq!(super::end(&mut server).await, Ok(()));
    assert_eq!(timeout(SOON, running).await.expect("in time").expect("no panic"), (StreamEnd::Closed, (0, 10)));
}
