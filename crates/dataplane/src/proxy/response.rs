//! What a client is sent.

use http::header::TRANSFER_ENCODING;
use http::{StatusCode, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::ResponseHeader;

use super::context::RequestContext;
use super::hop;
use crate::filter::{cors, header};

/// Makes an endpoint's response the client's.
pub(super) fn pass(session: &mut ServerSession, ctx: &RequestContext, response: &mut ResponseHeader) -> Result<()> {
    if response.status.is_informational() && response.status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(());
    }
    hop::strip_response(response);
    speak_to(session.req_header().version, response);
    decorate(response, ctx)?;
    if ctx.is_ending() {
        match &ctx.loan {
            Some(loan) => loan.close(),
            None => session.set_keepalive(None),
        }
    }
    Ok(())
}

/// The version is this proxy's, not the endpoint's (RFC 9110, 2.5). And HTTP/1.0 has no chunks: a body of unknown length ends with the
/// connection there.
fn speak_to(client: Version, response: &mut ResponseHeader) {
    if client != Version::HTTP_2 {
        response.set_version(Version::HTTP_11);
    }
    if client == Version::HTTP_10 {
        response.remove_header(&TRANSFER_ENCODING);
    }
}

/// What filters do to a response, whoever made it. The backendRef's go first, so that the rule has the last word, and of two rules the one
/// that took the request first.
pub(super) fn decorate(response: &mut ResponseHeader, ctx: &RequestContext) -> Result<()> {
    for filters in ctx.stages().rev().flat_map(|stage| stage.filters().rev()) {
        header::modify_response(response, &filters.response_headers)?;
    }
    if let Some(granted) = &ctx.cors {
        cors::grant(response, granted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_have_our_version_and_no_chunks_for_old_clients() {
        for (client, endpoint, version, chunked) in [
            (Version::HTTP_11, Version::HTTP_10, Version::HTTP_11, true),
            (Version::HTTP_11, Version::HTTP_11, Version::HTTP_11, true),
            (Version::HTTP_10, Version::HTTP_11, Version::HTTP_11, false),
            (Version::HTTP_2, Version::HTTP_2, Version::HTTP_2, true),
        ] {
            let mut response = ResponseHeader::build(200, None).expect("a response");
            response.set_version(endpoint);
            response.insert_header(TRANSFER_ENCODING, "chunked").expect("a header");
            speak_to(client, &mut response);
            assert_eq!((response.version, response.headers.contains_key(TRANSFER_ENCODING)), (version, chunked), "{client:?}");
        }
    }
}
