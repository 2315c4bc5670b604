//! The controllers' Service: one address -> the push ports of those that live.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

/// Forwards connections to one of the endpoints in turn. Ends when dropped.
#[derive(Debug)]
pub(super) struct Service {
    address: SocketAddr,
    endpoints: Arc<Mutex<BTreeMap<String, SocketAddr>>>,
    task: AbortHandle,
}

impl Service {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoints = Arc::<Mutex<BTreeMap<String, SocketAddr>>>::default();
        let task = tokio::spawn(forward(listener, Arc::clone(&endpoints))).abort_handle();
        Self { address, endpoints, task }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds an endpoint, or replaces the one of this name.
    pub(super) fn set(&self, name: &str, endpoint: SocketAddr) {
        self.endpoints().insert(name.to_owned(), endpoint);
    }

    /// The endpoint of this name.
    pub(super) fn endpoint(&self, name: &str) -> Option<SocketAddr> {
        self.endpoints().get(name).copied()
    }

    fn endpoints(&self) -> MutexGuard<'_, BTreeMap<String, SocketAddr>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn forward(listener: TcpListener, endpoints: Arc<Mutex<BTreeMap<String, SocketAddr>>>) {
    let mut connections = JoinSet::new();
    for turn in 0_usize.. {
        let Ok((mut client, _)) = listener.accept().await else { return };
        while connections.try_join_next().is_some() {}
        let all: Vec<_> = endpoints.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect();
        let Some(endpoint) = all.get(turn % all.len().max(1)).copied() else { continue };
        connections.spawn(async move {
            if let Ok(mut server) = TcpStream::connect(endpoint).await {
                // Either end may break off.
                let _ = copy_bidirectional(&mut client, &mut server).await;
            }
        });
    }
}
