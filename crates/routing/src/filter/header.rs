//! Header modifiers, for requests and for responses.

use serde::{Deserialize, Serialize};

use crate::value::{HeaderName, HeaderValue};

/// Set, then add, then remove; a name occurs in at most one of the three.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeaderModifier {
    /// Replaces all values of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Appends a value.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub add: Vec<(HeaderName, HeaderValue)>,
    /// Removes all values of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remove: Vec<HeaderName>,
}
