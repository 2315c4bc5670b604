//! Who is connected, and what share of the room an address may take: all of it would keep the API server out.
//!
//! Anybody who reaches the port can connect; nobody shows who he is before he has spoken. So a share is an address's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Connections, by the addresses that they come from.
#[derive(Debug)]
pub(super) struct Peers {
    all: Arc<Semaphore>,
    /// An address that has no connection is not there.
    connected: Mutex<HashMap<IpAddr, Peer>>,
    shares: Shares,
}

/// How much one address may have at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shares {
    pub(super) connections: usize,
    pub(super) reviews: usize,
}

#[derive(Debug)]
struct Peer {
    connections: usize,
    reviews: Reviews,
}

/// The reviews that an address may have at a time.
#[derive(Debug, Clone)]
pub(super) struct Reviews(Arc<Semaphore>);

/// Room for a connection, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Arc<Peers>,
    address: IpAddr,
    reviews: Reviews,
    _permit: OwnedSemaphorePermit,
}

impl Peers {
    /// Room for `all` connections.
    pub(super) fn new(all: usize, shares: Shares) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), connected: Mutex::default(), shares })
    }

    /// Waits until there is room for one more. None: never again. Cancel safe.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// Gives this room to an address. None: it has its share.
    pub(super) fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit, address: IpAddr) -> Option<Place> {
        let mut connected = self.connected();
        let fresh = || Peer { connections: 0, reviews: Reviews(Arc::new(Semaphore::new(self.shares.reviews))) };
        let peer = connected.entry(address).or_insert_with(fresh);
        if peer.connections >= self.shares.connections {
            return None;
        }
        peer.connections += 1;
        let reviews = peer.reviews.clone();
        drop(connected);
        Some(Place { peers: Arc::clone(self), address, reviews, _permit: permit })
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<IpAddr, Peer>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reviews {
    /// Waits until the address may have one more, and takes it until the permit is dropped. Cancel safe.
    pub(super) async fn one(self) -> Option<OwnedSemaphorePermit> {
        self.0.acquire_owned().await.ok()
    }
}

impl Place {
    /// Shared with all connections of the address.
    pub(super) fn reviews(&self) -> Reviews {
        self.reviews.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut connected = self.peers.connected();
        if let Some(peer) = connected.get_mut(&self.address) {
            peer.connections -= 1;
            if peer.connections == 0 {
                connected.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_its_share_and_no_more() {
        let peers = Peers::new(3, Shares { connections: 2, reviews: 1 });
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = peers.place(peers.room().await.unwrap(), one).unwrap();
        let second = peers.place(peers.room().await.unwrap(), one).unwrap();
        assert!(peers.place(peers.room().await.unwrap(), one).is_none());
        let third = peers.place(peers.room().await.unwrap(), other).unwrap();
        let review = first.reviews().one().await.unwrap();
        assert!(second.reviews().0.try_acquire().is_err(), "all connections of an address have one share");
        assert!(third.reviews().0.try_acquire().is_ok());
        drop(review);
        assert!(second.reviews().0.try_acquire().is_ok());
        drop(first);
        let _again = peers.place(peers.room().await.unwrap(), one).unwrap();
        drop(third);
        assert_eq!(peers.connected().keys().collect::<Vec<_>>(), [&one]);
    }
}
