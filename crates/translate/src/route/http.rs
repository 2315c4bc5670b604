//! What only an HTTPRoute's rules have: timeouts and retries.

use std::time::Duration;

use isthmus_api::{duration, shared};
use isthmus_routing::{Retry, Timeouts};

use super::RuleFault;

/// A `backendRequest` that is longer than `request` is taken as it is, because the request's own deadline ends it anyway; the
/// API's rules refuse it.
pub(super) fn timeouts(from: &shared::Timeouts) -> Result<Timeouts, RuleFault> {
    Ok(Timeouts {
        request: optional(from.request.as_deref(), "timeouts.request")?,
        backend_request: optional(from.backend_request.as_deref(), "timeouts.backendRequest")?,
    })
}

/// > Attempts specifies the maximum number of times an individual request
/// > from the Gateway to a backend should be retried in addition to the
/// > initial request.
///
/// It defaults to 1.
pub(super) fn retry(from: &shared::Retry) -> Result<Retry, RuleFault> {
    let attempts = from.attempts.unwrap_or(1);
    let attempts = u32::try_from(attempts)
        .map_err(|_| RuleFault::unsupported("retry.attempts", format_args!("{attempts} is not a number of tries")))?;
    let mut codes = Vec::with_capacity(from.codes.len());
    for (at, code) in from.codes.iter().enumerate() {
        match u16::try_from(*code) {
            Ok(code @ 400..=599) => codes.push(code),
            _ => {
                return Err(RuleFault::unsupported(
                    &format!("retry.codes[{at}]"),
                    format_args!("{code} is not a code from 400 to 599"),
                ));
            }
        }
    }
    codes.sort_unstable();
    codes.dedup();
    Ok(Retry { codes, attempts, backoff: optional(from.backoff.as_deref(), "retry.backoff")? })
}

fn optional(text: Option<&str>, field: &str) -> Result<Option<Duration>, RuleFault> {
    text.map(|text| duration::parse(text).map_err(|fault| RuleFault::unsupported(field, format_args!("{fault}")))).transpose()
}

#[cfg(test)]
mod tests {
    use isthmus_api::shared;

    use super::{retry, timeouts};

    #[test]
    fn durations_are_parsed() {
        for (request, backend, expected) in [
            (None, None, "{}"),
            (Some("10s"), Some("500ms"), r#"{"request":{"ms":10000},"backend_request":{"ms":500}}"#),
            (Some("0s"), Some("2s"), r#"{"request":{"ms":0},"backend_request":{"ms":2000}}"#),
            (Some("1s"), Some("2s"), r#"{"request":{"ms":1000},"backend_request":{"ms":2000}}"#),
        ] {
            let from = shared::Timeouts { request: request.map(str::to_owned), backend_request: backend.map(str::to_owned) };
            assert_eq!(serde_json::to_string(&timeouts(&from).unwrap()).unwrap(), expected);
        }
        let wrong = shared::Timeouts { request: Some("1.5s".to_owned()), backend_request: None };
        assert!(timeouts(&wrong).unwrap_err().to_string().starts_with("timeouts.request: `1.5s` is not a duration"));
    }

    #[test]
    fn retries_are_bounded_and_sorted() {
        for (codes, attempts, backoff, expected) in [
            (vec![], None, None, r#"{"attempts":1}"#),
            (vec![503, 500, 503], Some(0), Some("100ms"), r#"{"codes":[500,503],"attempts":0,"backoff":{"ms":100}}"#),
            (vec![200], None, None, "retry.codes[0]: 200 is not a code from 400 to 599"),
            (vec![], Some(-1), None, "retry.attempts: -1 is not a number of tries"),
        ] {
            let from = shared::Retry { codes, attempts, backoff: backoff.map(str::to_owned) };
            let found = retry(&from).map(|retry| serde_json::to_string(&retry).unwrap());
            assert_eq!(found.unwrap_or_else(|fault| fault.to_string()), expected);
        }
    }
}
