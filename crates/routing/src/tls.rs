//! Certificates.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A certificate chain with its key, as a `kubernetes.io/tls` Secret holds them. `translate` has checked that both parse and
/// belong together.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM: PKCS#8, PKCS#1 or SEC1.
    pub key: String,
}

/// Never shows the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("chain", &self.chain).field("key", &"<secret>").finish()
    }
}
