//! The Gateway API's durations (GEP-2257).

use std::str::FromStr;
use std::time::Duration;

/// A text that is not a duration of the Gateway API.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a duration like `1h30m`, `10s` or `500ms`: {reason}")]
pub struct InvalidDuration {
    text: String,
    reason: String,
}

/// Reads `1h30m`, `10s`, `500ms`: up to four whole numbers with a unit each.
///
/// # Errors
/// When the text is anything else.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    gateway_api::Duration::from_str(text)
        .map(|duration| Duration::new(duration.as_secs(), duration.subsec_nanos()))
        .map_err(|reason| InvalidDuration { text: text.to_owned(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_gep_2257() {
        for (text, expected) in [
            ("0s", Some(0)),
            ("500ms", Some(500)),
            ("10s", Some(10_000)),
            ("1h30m", Some(5_400_000)),
            ("1s500ms", Some(1_500)),
            ("1.5s", None),
            ("-1s", None),
            ("10", None),
            ("", None),
            ("100000s", None),
        ] {
            assert_eq!(parse(text).ok().map(|d| d.as_millis()), expected, "{text}");
        }
    }
}
