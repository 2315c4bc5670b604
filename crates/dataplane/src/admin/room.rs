//! Who may be connected at once.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections of each address; one that has none is not there.
#[derive(Debug, Default)]
pub(super) struct Room(Mutex<HashMap<IpAddr, usize>>);

/// A place, which is free again when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    room: Arc<Room>,
    peer: IpAddr,
}

impl Room {
    /// A place for one more connection of an address; none: it has `most`.
    pub(super) fn place(self: &Arc<Self>, peer: IpAddr, most: usize) -> Option<Place> {
        let mut taken = self.taken();
        let of_peer = taken.entry(peer).or_default();
        if *of_peer >= most {
            return None;
        }
        *of_peer += 1;
        drop(taken);
        Some(Place { room: self.clone(), peer })
    }

    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        if let Some(of_peer) = taken.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                taken.remove(&self.peer);
            }
        }
    }
}
