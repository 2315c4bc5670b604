//! The application behind the server's proxy: it answers every request on a kept connection with the same bytes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// As much as the backend of `bench edge` says.
const BODY: [u8; 121] = [b'x'; 121];
/// More than a request takes here.
const LONGEST: usize = 16 * 1024;

/// Serves for as long as this process lives.
pub(in crate::bench) fn serve(listener: TcpListener) {
    each(listener, answer);
}

/// The same behind TLS, in the place of an application and its proxy.
pub(in crate::bench) fn serve_tls(listener: TcpListener, config: Arc<ServerConfig>) {
    each(listener, move |stream| {
        let session = ServerConnection::new(config.clone()).map_err(io::Error::other)?;
        answer(StreamOwned::new(session, stream))
    });
}

fn each(listener: TcpListener, serve: impl Fn(TcpStream) -> io::Result<()> + Clone + Send + 'static) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || {
                // The client counts what it lost.
                let _broken = stream.set_nodelay(true).and_then(|()| serve(stream));
            });
        }
    });
}

/// Requests without a body, one after the other.
fn answer(mut stream: impl Read + Write) -> io::Result<()> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY.len());
    let response = [head.as_bytes(), &BODY].concat();
    let (mut buffer, mut held) = (vec![0; LONGEST], 0);
    loop {
        match stream.read(&mut buffer[held..])? {
            0 => return Ok(()),
            read => held += read,
        }
        if buffer[..held].ends_with(b"\r\n\r\n") {
            stream.write_all(&response)?;
            stream.flush()?;
            held = 0;
        }
    }
}
