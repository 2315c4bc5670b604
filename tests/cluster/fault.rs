//! Why a test failed.

use std::fmt;

/// In words.
#[derive(Debug)]
pub(crate) struct Fault(String);

/// How a test, or a part of one, ends.
pub(crate) type Outcome<T = ()> = Result<T, Fault>;

impl Fault {
    /// A fault in words.
    pub(crate) fn said(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: std::error::Error> From<E> for Fault {
    fn from(error: E) -> Self {
        Self(error.to_string())
    }
}

/// Ends the function with a fault unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err($crate::fault::Fault::said(format!($($words)+)));
        }
    };
}
pub(crate) use ensure;
