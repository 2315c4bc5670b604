//! Closing while the client still sends.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::connection::Connection;

/// Says that no more is written, then reads what the client still sends, within bounds, and drops it. A socket that is closed with
/// unread bytes resets the connection, and a reset may overtake the response (RFC 9112, section 9.6).
pub(crate) fn linger(mut socket: TcpStream, connection: Arc<Connection>) {
    // Without a runtime the process is ending, and its sockets with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let limits = connection.limits.clone();
        let drained = async {
            socket.shutdown().await?;
            let mut left = limits.linger_bytes;
            let mut bytes = vec![0; 4096];
            loop {
                let read = socket.read(&mut bytes).await?;
                if read == 0 || read > left {
                    return std::io::Result::Ok(());
                }
                left -= read;
            }
        };
        // Whatever became of it, the socket is closed now.
        let _ = tokio::time::timeout(limits.linger, drained).await;
    });
}
