//! Requests for certificates on one stream: one at a time, the newest of those that wait, and not too often.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::{Shared, Subject, count};
use crate::message::{Csr, ToProxy};

/// Bytes of a request; one has about 500.
const LONGEST: usize = 16 << 10;

/// A request that nobody has looked at yet.
#[derive(Debug, Default)]
pub(super) struct Requests {
    newest: Mutex<Option<String>>,
    arrived: Notify,
}

impl Requests {
    /// Takes the place of one that waits.
    pub(super) fn put(&self, Csr { csr }: Csr) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(csr);
        self.arrived.notify_one();
    }

    /// Waits for one. Cancel safe.
    pub(super) async fn next(&self) -> String {
        loop {
            let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(csr) = newest {
                return csr;
            }
            self.arrived.notified().await;
        }
    }
}

/// What to answer to a request.
pub(super) async fn answer(subject: &Subject, csr: String, shared: &Arc<Shared>) -> ToProxy<'static> {
    match signed(subject, csr, shared).await {
        Ok(chain) => {
            count(&shared.counts.certificates);
            ToProxy::Certificate { chain }
        }
        Err(reason) => {
            count(&shared.counts.certificates_denied);
            ToProxy::Denied { reason }
        }
    }
}

async fn signed(subject: &Subject, csr: String, shared: &Arc<Shared>) -> Result<String, String> {
    if csr.len() > LONGEST {
        return Err(format!("a request of {} bytes is longer than the {LONGEST} bytes that are allowed", csr.len()));
    }
    let patience = shared.options.limits.sign;
    let signing = (shared.options.sign)(subject.identity().clone(), csr);
    match tokio::time::timeout(patience, signing).await {
        Ok(signed) => signed.map_err(|denied| denied.to_string()),
        Err(_) => Err(format!("the authority has not answered within {} s", patience.as_secs_f32())),
    }
}
