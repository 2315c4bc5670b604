//! Versions of Kubernetes.

use std::fmt;
use std::str::FromStr;

/// A version of Kubernetes, such as 1.31.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct KubernetesVersion {
    /// 1
    pub major: u32,
    /// 31
    pub minor: u32,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a version of Kubernetes such as 1.31")]
pub struct NotAVersion(String);

impl KubernetesVersion {
    /// The first one in which native sidecars are on by default.
    pub const OLDEST: Self = Self { major: 1, minor: 29 };
}

impl fmt::Display for KubernetesVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for KubernetesVersion {
    type Err = NotAVersion;

    /// Takes what providers add, as in `v1.31.2-gke.1` and `1.31+`.
    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let number = |text: &str| {
            let end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
            text[..end].parse().ok()
        };
        let parts = text.strip_prefix('v').unwrap_or(text).split_once('.');
        let version = parts.and_then(|(major, minor)| Some(Self { major: major.parse().ok()?, minor: number(minor)? }));
        version.ok_or_else(|| NotAVersion(text.to_owned()))
    }
}
