//! The functions that rules may call: CEL's own, and those of Kubernetes that the CRDs use.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;

use cel::common::types::{CelBool, CelInt, CelString};
use cel::{DeclarationError, Env, ExecutionError};
use regex::Regex;

/// What rules are compiled and evaluated with.
pub(super) fn environment() -> Env {
    let mut environment = Env::stdlib();
    // A declaration can only fail by being there already: then a rule that needs it fails, and a test evaluates every function.
    let _: Result<(), DeclarationError> = declare(&mut environment);
    environment
}

fn declare(environment: &mut Env) -> Result<(), DeclarationError> {
    environment.add_extension(cel::extensions::strings)?;
    cel::add_member_overload!(environment, fn matches: (CelString, CelString) -> Result<CelBool>)?;
    cel::add_overload!(environment, fn isIP: (CelString) -> Result<CelBool>)?;
    cel::add_overload!(environment, fn duration: (CelString) -> Result<CelInt>)
}

/// Whether a text is an IP address. A zone, or an address of IPv4 within one of IPv6, makes it none.
#[expect(non_snake_case, reason = "rules call it so")]
fn isIP(text: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    let is_address = match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => true,
        Ok(IpAddr::V6(address)) => address.to_ipv4_mapped().is_none(),
        Err(_) => false,
    };
    Ok(CelBool::from(is_address))
}

/// The library's own `matches` compiles the expression at every call. Expressions come from the CRDs, so there are few of them.
fn matches(text: &CelString<'_>, pattern: &CelString<'_>) -> Result<CelBool, ExecutionError> {
    static COMPILED: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());
    let mut compiled = COMPILED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(regex) = compiled.get(pattern.inner()) {
        return Ok(CelBool::from(regex.is_match(text)));
    }
    let regex = Regex::new(pattern).map_err(|error| ExecutionError::function_error("matches", error))?;
    let matched = regex.is_match(text);
    compiled.insert(pattern.to_string(), regex);
    Ok(CelBool::from(matched))
}

/// Rules only compare durations, so one is its nanoseconds; the library's own type needs a calendar and time zones.
fn duration(text: &CelString<'_>) -> Result<CelInt, ExecutionError> {
    nanoseconds(text)
        .map(CelInt::from)
        .ok_or_else(|| ExecutionError::function_error("duration", format!("`{}` is not a duration", text.inner())))
}

/// Go's `time.ParseDuration`, for whole numbers: that is all the CRDs' patterns let through.
fn nanoseconds(text: &str) -> Option<i64> {
    const UNITS: [(&str, i64); 6] =
        [("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000), ("h", 3_600_000_000_000)];
    let mut rest = text;
    let mut sum = 0_i64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: i64 = rest[..digits].parse().ok()?;
        let end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let (_, unit) = UNITS.iter().find(|(name, _)| *name == &rest[digits..end])?;
        sum = sum.checked_add(number.checked_mul(*unit)?)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cel::{Context, Value};

    use super::*;

    #[test]
    fn every_function_is_there() {
        let environment = Arc::new(environment());
        for (rule, expected) in [
            ("'abc'.matches(r\"\"\"^[a-c]+$\"\"\")", true),
            ("'abd'.matches('^[a-c]+$')", false),
            ("'abc'.matches('^[a-c]+$')", true),
            ("duration('1m') == duration('60s')", true),
            ("duration('1m500ms') > duration('1m')", true),
            ("duration('0s') != duration('0ms')", false),
            ("'a/b'.split('/')[0].size() == 1", true),
            ("size('') == 0 && 'x'.startsWith('x') && 'x'.endsWith('x') && 'x'.contains('x')", true),
            ("isIP('192.0.2.1') && isIP('2001:db8::1') && !isIP('::ffff:192.0.2.1') && !isIP('192.0.2.1.example')", true),
            ("'*.a.example'.substring(2) == 'a.example'", true),
            ("[1, 2].exists_one(x, x == 1) && [1, 2].filter(x, x > 1).size() == 1", true),
        ] {
            let program = environment.compile(rule).unwrap();
            let result = program.execute(&Context::with_env(Arc::clone(&environment)));
            assert_eq!(result, Ok(Value::Bool(expected)), "{rule}");
        }
    }

    #[test]
    fn durations_are_read() {
        for (text, expected) in
            [("1h1ms", Some(3_600_001_000_000)), ("", None), ("5", None), ("s", None), ("5x", None), ("-1s", None)]
        {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
