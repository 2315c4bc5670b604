//! How long things may take.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The timeouts of a rule. `None`: the field was absent, so the data plane's default applies. `Some(ZERO)`: disabled
/// ("Setting a timeout to the zero duration (e.g. "0s") SHOULD disable the timeout completely").
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From the request's arrival to the end of the response.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::value::duration")]
    pub request: Option<Duration>,
    /// For one try at one endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::value::duration")]
    pub backend_request: Option<Duration>,
}

impl Timeouts {
    /// Whether none is set.
    pub fn is_empty(&self) -> bool {
        self.request.is_none() && self.backend_request.is_none()
    }
}
