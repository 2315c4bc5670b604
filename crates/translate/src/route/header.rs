//! Header modifiers.

use isthmus_api::shared::{self, Header};
use isthmus_routing::filter::HeaderModifier;
use isthmus_routing::value::{HeaderName, HeaderValue};

use super::RuleFault;
use super::matches::parse;

/// Headers that belong to the connection or to the message's framing (RFC 9110 section 7.6.1, RFC 9112 section 6): whoever
/// changes them makes one side see another message than the other.
const FRAMING: &[&str] =
    &["connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// > Only one action for a given header name is
/// > permitted. Filters specifying multiple actions of the same or different
/// > type for any one header name are invalid.
///
/// Within one list, the name's own rule holds:
///
/// > If multiple entries specify equivalent header names, the first entry with
/// > an equivalent name MUST be considered for a match. Subsequent entries
/// > with an equivalent header name MUST be ignored.
pub(super) fn modifier(from: &shared::HeaderModifier) -> Result<HeaderModifier, RuleFault> {
    let set = headers(&from.set, "set")?;
    let add = headers(&from.add, "add")?;
    let mut remove = Vec::<HeaderName>::with_capacity(from.remove.len());
    for (at, name) in from.remove.iter().enumerate() {
        let name = changeable(name).map_err(|fault| fault.within(&format!("remove[{at}]")))?;
        if !remove.contains(&name) {
            remove.push(name);
        }
    }
    let in_set = |name: &HeaderName| set.iter().any(|(other, _)| other == name);
    let in_add = |name: &HeaderName| add.iter().any(|(other, _)| other == name);
    let twice = add
        .iter()
        .map(|(name, _)| name)
        .find(|name| in_set(name))
        .or_else(|| remove.iter().find(|name| in_set(name) || in_add(name)));
    match twice {
        Some(name) => {
            Err(RuleFault::unsupported("", format_args!("header `{name}` is in more than one of set, add and remove; keep one")))
        }
        None => Ok(HeaderModifier { set, add, remove }),
    }
}

fn headers(from: &[Header], list: &str) -> Result<Vec<(HeaderName, HeaderValue)>, RuleFault> {
    let mut headers = Vec::<(HeaderName, HeaderValue)>::with_capacity(from.len());
    for (at, header) in from.iter().enumerate() {
        let within = |fault: RuleFault| fault.within(&format!("{list}[{at}]"));
        let name = changeable(&header.name).map_err(within)?;
        if !headers.iter().any(|(known, _)| *known == name) {
            let value = parse(&header.value, "value").map_err(within)?;
            headers.push((name, value));
        }
    }
    Ok(headers)
}

fn changeable(name: &str) -> Result<HeaderName, RuleFault> {
    let parsed: HeaderName = parse(name, "name")?;
    match parsed.as_http().as_str() {
        "host" => Err(RuleFault::unsupported(
            "name",
            format_args!("`{name}` is not changed by a header modifier; use a URLRewrite filter with `hostname`"),
        )),
        lower if FRAMING.contains(&lower) => Err(RuleFault::unsupported(
            "name",
            format_args!("`{name}` belongs to the connection and cannot be changed; remove it from the filter"),
        )),
        _ => Ok(parsed),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::shared::{Header, HeaderModifier};

    use super::modifier;

    fn convert(set: &[(&str, &str)], add: &[(&str, &str)], remove: &[&str]) -> String {
        let headers = |list: &[(&str, &str)]| {
            list.iter().map(|(name, value)| Header { name: (*name).to_owned(), value: (*value).to_owned() }).collect()
        };
        let from = HeaderModifier {
            set: headers(set),
            add: headers(add),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        };
        match modifier(&from) {
            Ok(modifier) => serde_json::to_string(&modifier).unwrap(),
            Err(fault) => fault.to_string(),
        }
    }

    #[test]
    fn one_action_for_a_name() {
        for (set, add, remove, expected) in [
            (
                &[("A", "1"), ("a", "\u{e4}")][..],
                &[("b", "3")][..],
                &["C", "c"][..],
                r#"{"set":[["a","1"]],"add":[["b","3"]],"remove":["c"]}"#,
            ),
            (&[], &[], &[], "{}"),
            (&[("a", "1")], &[("A", "2")], &[], "header `a` is in more than one of set, add and remove; keep one"),
            (&[("a", "1")], &[], &["A"], "header `a` is in more than one of set, add and remove; keep one"),
            (&[], &[("a", "1")], &["A"], "header `a` is in more than one of set, add and remove; keep one"),
            (
                &[("Host", "x")],
                &[],
                &[],
                "set[0].name: `Host` is not changed by a header modifier; use a URLRewrite filter with `hostname`",
            ),
            (
                &[],
                &[("x", "1"), ("Content-Length", "0")],
                &[],
                "add[1].name: `Content-Length` belongs to the connection and cannot be changed; remove it from the filter",
            ),
            (
                &[],
                &[],
                &["transfer-encoding"],
                "remove[0].name: `transfer-encoding` belongs to the connection and cannot be changed; remove it from the filter",
            ),
            (&[(":path", "x")], &[], &[], "set[0].name: `:path`: invalid HTTP header name"),
            (
                &[("a", "x\r\nb: c")],
                &[],
                &[],
                "set[0].value: `x\\r\\nb: c` is not a header value: only visible ASCII, space and tab can be sent",
            ),
        ] {
            assert_eq!(convert(set, add, remove), expected);
        }
    }
}
