//! Connections without a stream: how many there may be at once, in all and from one address.
//!
//! Without the second limit one pod that connects and says nothing would keep every proxy out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Places for strangers.
#[derive(Debug)]
pub(super) struct Strangers {
    all: Arc<Semaphore>,
    /// Places that are taken; an address that has none is not there.
    taken: Mutex<HashMap<IpAddr, usize>>,
    each: usize,
}

/// A place, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    strangers: Arc<Strangers>,
    peer: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Strangers {
    pub(super) fn new(all: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(all)), taken: Mutex::default(), each })
    }

    /// Waits until there is room for one more. None: never again.
    pub(super) async fn room(&self) -> Option<OwnedSemaphorePermit> {
        self.all.clone().acquire_owned().await.ok()
    }

    /// Gives this room to a peer; none: it has as many places as it may.
    pub(super) fn place(self: &Arc<Self>, permit: OwnedSemaphorePermit, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken();
        let of_peer = taken.entry(peer).or_default();
        if *of_peer >= self.each {
            return None;
        }
        *of_peer += 1;
        drop(taken);
        Some(Place { strangers: self.clone(), peer, _permit: permit })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.strangers.taken();
        if let Some(of_peer) = taken.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_few_places_and_gets_them_back() {
        let strangers = Strangers::new(3, 2);
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = strangers.place(strangers.room().await.unwrap(), one).unwrap();
        let _second = strangers.place(strangers.room().await.unwrap(), one).unwrap();
        assert!(strangers.place(strangers.room().await.unwrap(), one).is_none());
        let third = strangers.place(strangers.room().await.unwrap(), other).unwrap();
        drop(first);
        assert!(strangers.place(strangers.room().await.unwrap(), one).is_some());
        drop(third);
        assert_eq!(strangers.taken().keys().collect::<Vec<_>>(), [&one]);
    }
}
