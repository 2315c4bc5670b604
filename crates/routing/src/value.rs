//! Values that HTTP puts limits on, as types that can only hold what may be sent.

use std::fmt;
use std::str::FromStr;

use crate::name::as_text;

/// A header name, lower-case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderName(http::HeaderName);

impl HeaderName {
    /// For use with a header map.
    pub fn as_http(&self) -> &http::HeaderName {
        &self.0
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for HeaderName {
    type Err = http::header::InvalidHeaderName;
    /// Accepts any case.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        http::HeaderName::from_bytes(s.as_bytes()).map(Self)
    }
}

/// A header value without bytes that could end a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderValue(http::HeaderValue);

impl HeaderValue {
    /// For use with a header map.
    pub fn as_http(&self) -> &http::HeaderValue {
        &self.0
    }
}

impl fmt::Display for HeaderValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.to_str().unwrap_or_default())
    }
}

/// A text that cannot be a header's value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a header value: only visible ASCII, space and tab can be sent")]
pub struct InvalidHeaderValue(String);

impl FromStr for HeaderValue {
    type Err = InvalidHeaderValue;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        match http::HeaderValue::from_str(s) {
            Ok(value) if value.to_str().is_ok() => Ok(Self(value)),
            _ => Err(InvalidHeaderValue(s.escape_default().to_string())),
        }
    }
}

/// A request method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Method(http::Method);

impl Method {
    /// For comparison with a request's.
    pub fn as_http(&self) -> &http::Method {
        &self.0
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl FromStr for Method {
    type Err = http::method::InvalidMethod;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        s.parse().map(Self)
    }
}

/// A regular expression that has to match the *whole* text, in the syntax of the `regex` crate: time linear in the
/// text, no look-around, no back-references. (The specification leaves the dialect to the implementation; the whole text is
/// what users of Envoy know.)
#[derive(Debug, Clone)]
pub struct Pattern {
    source: String,
    regex: regex::Regex,
}

/// The memory that one compiled pattern may take, in bytes.
const PATTERN_SIZE_LIMIT: usize = 256 * 1024;

impl Pattern {
    /// Whether the whole text matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression in a form that matches only whole texts, to be compiled with others.
    pub(crate) fn anchored(&self) -> &str {
        self.regex.as_str()
    }

    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.source
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}
impl Eq for Pattern {}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

/// An expression that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// Its syntax is not that of the `regex` crate.
    #[error("`{pattern}` is not a regular expression of the RE2 kind (linear time, no look-around): {fault}")]
    Syntax {
        /// The expression.
        pattern: String,
        /// What is wrong, in one line.
        fault: String,
    },
    /// It compiles to more than the limit.
    #[error("the regular expression that starts with `{start}` needs more than {limit} bytes when compiled; make it shorter")]
    TooLarge {
        /// Its first characters.
        start: String,
        /// The limit in bytes.
        limit: usize,
    },
}

impl FromStr for Pattern {
    type Err = InvalidPattern;
    fn from_str(source: &str) -> Result<Self, InvalidPattern> {
        let compile = |text: &str| regex::RegexBuilder::new(text).size_limit(PATTERN_SIZE_LIMIT).build();
        let fault = |error: regex::Error| match error {
            regex::Error::CompiledTooBig(limit) => InvalidPattern::TooLarge { start: source.chars().take(40).collect(), limit },
            other => InvalidPattern::Syntax {
                pattern: source.chars().take(200).collect(),
                fault: other.to_string().lines().last().unwrap_or_default().trim().trim_start_matches("error: ").to_owned(),
            },
        };
        // Compiled once as it stands, so that `a)|(b` is refused instead of completed by the group around it.
        compile(source).map_err(fault)?;
        let regex = compile(&format!("^(?:{source})$")).map_err(fault)?;
        Ok(Self { source: source.to_owned(), regex })
    }
}

as_text!(HeaderName, HeaderValue, Method, Pattern);

/// Durations as whole milliseconds, or as nanoseconds below one.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    enum Form {
        #[serde(rename = "ms")]
        Millis(u64),
        #[serde(rename = "ns")]
        Nanos(u64),
    }

    pub(crate) fn serialize<S: Serializer>(value: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        value
            .map(|d| match u64::try_from(d.as_millis()) {
                Ok(ms) if Duration::from_millis(ms) == d => Form::Millis(ms),
                _ => Form::Nanos(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
            })
            .serialize(s)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Form>::deserialize(d)?.map(|form| match form {
            Form::Millis(ms) => Duration::from_millis(ms),
            Form::Nanos(ns) => Duration::from_nanos(ns),
        }))
    }
}
