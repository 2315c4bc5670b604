//! Copies of requests whose responses are thrown away.

use serde::{Deserialize, Serialize};

use crate::Target;

/// Mirrors a share of the requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mirror {
    /// Where copies go; an invalid target gets none and does no harm to the request.
    pub target: Target,
    /// Of `denominator` requests, `numerator` are mirrored.
    pub numerator: u32,
    /// At least 1.
    pub denominator: u32,
}

impl Mirror {
    /// Whether a request is mirrored, given a number drawn evenly from `0..denominator`.
    pub fn takes(&self, drawn: u32) -> bool {
        drawn < self.numerator
    }
}
