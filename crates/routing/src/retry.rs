//! What is tried again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The retry stanza of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// Response codes that are tried again, sorted. Connection errors always are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<u16>,
    /// How many tries follow the first; 0 disables retries.
    pub attempts: u32,
    /// The base interval: try `n` (from 1) waits `backoff * 2^(n-1)`, jittered and capped by the data plane. `None`:
    /// the data plane's default.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::value::duration")]
    pub backoff: Option<Duration>,
}

impl Retry {
    /// Whether a response with this code is tried again while attempts are left.
    pub fn on_code(&self, code: u16) -> bool {
        self.codes.binary_search(&code).is_ok()
    }
}
