//! One copy of a request, from connecting to the end of its response.

use bytes::Bytes;
use http::Version;
use http::header::{CONTENT_LENGTH, HOST, HeaderValue, TE, TRANSFER_ENCODING};
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1;
use pingora_core::protocols::http::v2::client::Http2Session as Http2;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tokio::sync::mpsc::Receiver;

use super::{Mirrors, Part};
use crate::balance::{InFlight, Wire};
use crate::proxy::{defaults, forward, grpc, hop};
use crate::upstream::Caller;

impl Mirrors {
    pub(super) async fn exchange(
        &self,
        (endpoint, wire, caller): (&InFlight, Wire, &Caller),
        mut request: RequestHeader,
        body: Option<Receiver<Part>>,
    ) -> Result<()> {
        let peer = *endpoint.peer(wire, caller);
        let connector = self.connector().await;
        let (session, _reused) = connector.get_http_session(&peer).await?;
        let refused = |error| Error::because(ErrorType::InvalidCert, "verifying a mirror's certificate", error);
        endpoint.admit(session.digest(), caller, defaults::CONNECT).await.map_err(refused)?;
        prepare(&mut request, (wire, peer.is_tls()), body.is_some())?;
        let done = match session {
            HttpSession::H1(_) if wire == Wire::H2 => {
                return Error::e_explain(ErrorType::H2Downgrade, "the mirror did not choose HTTP/2 by ALPN");
            }
            HttpSession::H1(session) => HttpSession::H1(http1(session, request, body).await?),
            HttpSession::H2(session) => HttpSession::H2(http2(session, request, body).await?),
            HttpSession::Custom(session) => HttpSession::Custom(session),
        };
        connector.release_http_session(done, &peer, Some(defaults::POOL_IDLE)).await;
        Ok(())
    }
}

/// Makes a client's request one that can be sent on a connection of ours.
fn prepare(request: &mut RequestHeader, (wire, tls): (Wire, bool), body: bool) -> Result<()> {
    let is_grpc = grpc::is_grpc(&request.method, &request.headers);
    hop::strip_request(request);
    if !request.headers.contains_key(HOST)
        && let Some(authority) = request.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.insert_header(HOST, host)?;
    }
    match wire {
        Wire::H1 => {
            request.set_version(Version::HTTP_11);
            forward::join_cookies(request)?;
            if body && !request.headers.contains_key(CONTENT_LENGTH) {
                request.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
            }
        }
        Wire::H2 => {
            request.set_version(Version::HTTP_2);
            if is_grpc {
                request.insert_header(TE, HeaderValue::from_static("trailers"))?;
            }
            // Pingora makes `:authority` of Host if the target has none, and HTTP/2 has no Host beside it.
            if let Some(host) = request.remove_header(&HOST) {
                let path = request.uri.path_and_query().map_or("/", |path| path.as_str());
                let uri = http::Uri::builder()
                    .scheme(if tls { "https" } else { "http" })
                    .authority(host.as_bytes())
                    .path_and_query(path)
                    .build();
                request.set_uri(uri.map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "for a mirror", error))?);
            }
        }
    }
    Ok(())
}

async fn http1(mut session: Http1, request: RequestHeader, body: Option<Receiver<Part>>) -> Result<Http1> {
    session.read_timeout = Some(defaults::MIRROR);
    session.write_timeout = Some(defaults::MIRROR);
    session.write_request_header(Box::new(request)).await?;
    if let Some(mut body) = body {
        while let Some(data) = next(&mut body).await? {
            session.write_body(&data).await?;
        }
    }
    session.finish_body().await?;
    // 1xx responses come before the one that counts.
    session.read_response().await?;
    while session.get_status().is_some_and(|status| status.is_informational()) {
        session.read_response().await?;
    }
    session.respect_keepalive();
    while session.read_body_bytes().await?.is_some() {}
    Ok(session)
}

async fn http2(mut session: Http2, request: RequestHeader, body: Option<Receiver<Part>>) -> Result<Http2> {
    session.read_timeout = Some(defaults::MIRROR);
    session.write_timeout = Some(defaults::MIRROR);
    session.write_request_header(Box::new(request), body.is_none())?;
    if let Some(mut body) = body {
        loop {
            match next(&mut body).await {
                Ok(Some(data)) => session.write_request_body(data, false).await?,
                Ok(None) => break,
                Err(error) => {
                    session.shutdown();
                    return Err(error);
                }
            }
        }
        session.finish_request_body()?;
    }
    session.read_response_header().await?;
    while session.read_response_body().await?.is_some() {}
    Ok(session)
}

/// The next piece; none at the body's end. An error if it was cut off.
async fn next(body: &mut Receiver<Part>) -> Result<Option<Bytes>> {
    match body.recv().await {
        Some(Part::Data(data, _room)) => Ok(Some(data)),
        Some(Part::End) => Ok(None),
        None => Error::e_explain(ErrorType::ConnectionClosed, "the request was cut off, or its mirror was too slow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(target: &str, version: Version, wire: Wire, body: bool) -> RequestHeader {
        let mut request = RequestHeader::build("POST", b"/", None).expect("a request");
        request.set_uri(target.parse().expect("a URI"));
        request.set_version(version);
        request.insert_header("content-type", "application/grpc").expect("a header");
        request.insert_header("te", "trailers").expect("a header");
        if version != Version::HTTP_2 {
            request.insert_header("Host", "a.example").expect("a header");
        }
        prepare(&mut request, (wire, false), body).expect("prepared");
        request
    }

    #[test]
    fn a_copy_fits_the_protocol_that_it_is_sent_with() {
        let h1 = prepared("http://a.example/x?y", Version::HTTP_2, Wire::H1, true);
        assert_eq!((h1.raw_path(), h1.version), (&b"/x?y"[..], Version::HTTP_11));
        assert_eq!(h1.headers[HOST], "a.example");
        assert_eq!(h1.headers[TRANSFER_ENCODING], "chunked");
        assert!(!h1.headers.contains_key(TE));

        let h2 = prepared("/x?y", Version::HTTP_11, Wire::H2, true);
        assert_eq!((h2.uri.to_string().as_str(), h2.version), ("http://a.example/x?y", Version::HTTP_2));
        assert!(!h2.headers.contains_key(HOST) && !h2.headers.contains_key(TRANSFER_ENCODING));
        assert_eq!(h2.headers[TE], "trailers");

        assert!(!prepared("/x", Version::HTTP_11, Wire::H1, false).headers.contains_key(TRANSFER_ENCODING));
    }
}
