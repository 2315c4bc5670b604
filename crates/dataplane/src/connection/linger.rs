//! Closing while the client still sends.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::connection::Connection;
use crate::connection::transport::Transport;

/// Writes what is left, says that no more comes (not with `close_notify`: nobody knows here that the response is whole), then reads what the client still sends, within bounds, and drops it. A socket that is closed with
/// unread bytes resets the connection, and a reset may overtake the response (RFC 9112, section 9.6).
pub(crate) fn linger(mut transport: Transport, output: Vec<u8>, connection: Arc<Connection>) {
    // Without a runtime the process is ending, and its sockets with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let limits = connection.limits.clone();
        let drained = async {
            transport.write_all(&output).await?;
            transport.flush().await?;
            let mut socket = transport.into_socket();
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
