//! How many connections may be open, and when all have ended.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::accept::Entrance;
use crate::capture::Side;
use crate::limits::Limits;

/// The rooms for connections. What fills one takes nothing from the others: whoever dials a pod does not keep it from calling.
pub(crate) struct Permits {
    listened: Room,
    outbound: Room,
    inbound: Room,
}

/// Connections that are counted together.
pub(crate) struct Room {
    permits: Arc<Semaphore>,
    /// So many.
    pub(crate) limit: usize,
}

impl Permits {
    pub(crate) fn new(limits: &Limits) -> Self {
        let [listened, outbound, inbound] = [limits.connections, limits.captured, limits.captured].map(Room::new);
        Self { listened, outbound, inbound }
    }

    /// The one for what comes in here.
    pub(crate) fn room(&self, entrance: &Entrance) -> &Room {
        match entrance {
            Entrance::Captured(Side::Outbound) => &self.outbound,
            Entrance::Captured(Side::Inbound) => &self.inbound,
            Entrance::Http | Entrance::Tls(_) | Entrance::Stream => &self.listened,
        }
    }

    /// Waits until there is no connection: each holds a permit, from its accept until nobody knows it any more.
    pub(crate) async fn all_back(&self) {
        for room in [&self.listened, &self.outbound, &self.inbound] {
            let all = u32::try_from(room.limit).unwrap_or(u32::MAX);
            // Never closed, so this is no error.
            let _ = room.permits.acquire_many(all).await;
        }
    }
}

impl Room {
    fn new(limit: usize) -> Self {
        Self { permits: Arc::new(Semaphore::new(limit)), limit }
    }

    /// For one more connection; none: it is full.
    pub(crate) fn enter(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }
}
