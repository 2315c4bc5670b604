//! Header modifiers on Pingora's headers, which keep the case of names beside the names.

use isthmus_routing::filter::HeaderModifier;
use isthmus_routing::filter::header::Edit;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

/// Modifies a request's headers.
pub(crate) fn modify_request(request: &mut RequestHeader, modifiers: &[HeaderModifier]) -> Result<()> {
    for edit in modifiers.iter().flat_map(HeaderModifier::edits) {
        match edit {
            Edit::Set(name, value) => request.insert_header(name, value)?,
            Edit::Add(name, value) => drop(request.append_header(name, value)?),
            Edit::Remove(name) => drop(request.remove_header(name)),
        }
    }
    Ok(())
}

/// Modifies a response's headers.
pub(crate) fn modify_response(response: &mut ResponseHeader, modifiers: &[HeaderModifier]) -> Result<()> {
    for edit in modifiers.iter().flat_map(HeaderModifier::edits) {
        match edit {
            Edit::Set(name, value) => response.insert_header(name, value)?,
            Edit::Add(name, value) => drop(response.append_header(name, value)?),
            Edit::Remove(name) => drop(response.remove_header(name)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_set_added_and_removed_with_their_case_kept_in_step() {
        let parse = |name: &str, value: &str| (name.parse().expect("a name"), value.parse().expect("a value"));
        let modifier = HeaderModifier {
            set: vec![parse("x-set", "new")],
            add: vec![parse("x-add", "second")],
            remove: vec!["x-remove".parse().expect("a name")],
        };
        let mut request = RequestHeader::build("GET", b"/", None).expect("a request");
        let mut response = ResponseHeader::build(200, None).expect("a response");
        for (name, value) in [("X-Set", "old"), ("X-Set", "older"), ("X-Add", "first"), ("X-Remove", "gone"), ("X-Keep", "kept")]
        {
            request.append_header(name, value).expect("a header");
            response.append_header(name, value).expect("a header");
        }
        modify_request(&mut request, std::slice::from_ref(&modifier)).expect("modified");
        modify_response(&mut response, &[modifier]).expect("modified");
        for (headers, wire) in [
            (&request.headers, wire(|buf| request.header_to_h1_wire(buf))),
            (&response.headers, wire(|buf| response.header_to_h1_wire(buf))),
        ] {
            let mut lines: Vec<_> =
                headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().expect("text"))).collect();
            lines.sort_unstable();
            assert_eq!(lines, ["x-add: first", "x-add: second", "x-keep: kept", "x-set: new"]);
            assert_eq!(wire.to_lowercase().lines().count(), 4, "{wire}");
        }
    }

    fn wire(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut wire = Vec::new();
        write(&mut wire);
        String::from_utf8(wire).expect("text")
    }
}
