//! Errors of Pingora -> what the client is told and what the access log says.

use std::time::Instant;

use pingora_error::{Error, ErrorSource, ErrorType};

use super::attempt::NO_IDENTITY;
use super::context::RequestContext;
use super::local_response::Reply;
use super::timed::DEADLINE;
use crate::telemetry::Flags;

/// What became of a request that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// The client is told, if it has not been told anything yet.
    Answer(Reply),
    /// The client is gone.
    Gone(Flags),
}

impl Failure {
    /// Of an error that was not followed by a retry.
    pub(super) fn of(error: &Error, ctx: &RequestContext) -> Self {
        let late = ctx.deadlines.passed(Instant::now()).is_some();
        explain(&error.esource, &error.etype, late)
    }

    /// What the access log says.
    pub(super) fn flags(&self) -> Flags {
        match self {
            Self::Answer(reply) => reply.flags(),
            Self::Gone(flags) => *flags,
        }
    }
}

/// `late`: a deadline of the rule has passed, which explains whatever the endpoint did not do.
fn explain(source: &ErrorSource, etype: &ErrorType, late: bool) -> Failure {
    use ErrorType as E;
    let answer = |code, flags, text: &'static str| Failure::Answer(Reply::error(code, flags, text));
    match (source, etype) {
        (_, etype) if *etype == DEADLINE => timeout(),
        (ErrorSource::Upstream, _) if late => timeout(),
        (ErrorSource::Upstream, etype) if *etype == NO_IDENTITY => answer(
            503,
            Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_CERTIFICATE,
            "no connection to the backend could be made: this proxy has no certificate that it could show in the mesh",
        ),
        (_, E::HTTPStatus(503)) => answer(503, Flags::NO_HEALTHY_UPSTREAM, "the backend has no endpoint that could be asked"),
        (_, E::HTTPStatus(code)) => answer(*code, Flags::default(), "the request cannot be served"),

        (ErrorSource::Downstream, E::ReadTimedout) => {
            answer(408, Flags::STREAM_IDLE, "the request's body stood still for too long")
        }
        (ErrorSource::Downstream, E::WriteTimedout) => Failure::Gone(Flags::STREAM_IDLE),
        (ErrorSource::Downstream, E::H2Error) => Failure::Gone(Flags::DOWNSTREAM_RESET),
        (ErrorSource::Downstream, E::ConnectionClosed | E::ReadError | E::WriteError | E::ConnectError) => {
            Failure::Gone(Flags::DOWNSTREAM_CLOSED)
        }
        (ErrorSource::Downstream, _) => {
            answer(400, Flags::DOWNSTREAM_PROTOCOL_ERROR, "the request is not what HTTP has it to be")
        }

        (ErrorSource::Upstream, E::ReadTimedout | E::WriteTimedout) => {
            answer(504, Flags::STREAM_IDLE, "the backend stood still for too long")
        }
        (ErrorSource::Upstream, E::InvalidCert) => answer(
            503,
            Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_CERTIFICATE,
            "no connection to the backend could be made: its certificate is refused",
        ),
        (
            ErrorSource::Upstream,
            E::ConnectTimedout
            | E::ConnectRefused
            | E::ConnectNoRoute
            | E::ConnectError
            | E::SocketError
            | E::BindError
            | E::HandshakeError
            | E::TLSHandshakeFailure
            | E::TLSHandshakeTimedout,
        ) => answer(503, Flags::UPSTREAM_CONNECTION_FAILURE, "no connection to the backend could be made"),
        (ErrorSource::Upstream, E::H2Error) => answer(502, Flags::UPSTREAM_RESET, "the backend reset the stream"),
        (ErrorSource::Upstream, E::InvalidHTTPHeader | E::H1Error | E::InvalidH2 | E::H2Downgrade) => {
            answer(502, Flags::UPSTREAM_PROTOCOL_ERROR, "the backend's response is not what HTTP has it to be")
        }
        (ErrorSource::Upstream, _) => {
            answer(502, Flags::UPSTREAM_CLOSED, "the backend closed the connection before its response was complete")
        }

        (ErrorSource::Internal | ErrorSource::Unset, _) => {
            answer(500, Flags::default(), "the request could not be processed here")
        }
    }
}

/// > If the gateway has not been able to respond before this deadline is met, the gateway
/// > MUST return a timeout error.
fn timeout() -> Failure {
    Failure::Answer(Reply::error(504, Flags::UPSTREAM_TIMEOUT, "the backend did not answer within the route's timeout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_code_and_its_flag() {
        use ErrorSource::{Downstream, Internal, Unset, Upstream};
        for (source, etype, late, expected) in [
            (Upstream, ErrorType::ConnectRefused, false, Some((503, Flags::UPSTREAM_CONNECTION_FAILURE))),
            (Upstream, ErrorType::ConnectTimedout, false, Some((503, Flags::UPSTREAM_CONNECTION_FAILURE))),
            (Upstream, ErrorType::ConnectTimedout, true, Some((504, Flags::UPSTREAM_TIMEOUT))),
            (Upstream, ErrorType::TLSHandshakeFailure, false, Some((503, Flags::UPSTREAM_CONNECTION_FAILURE))),
            (
                Upstream,
                ErrorType::InvalidCert,
                false,
                Some((503, Flags::UPSTREAM_CONNECTION_FAILURE | Flags::UPSTREAM_CERTIFICATE)),
            ),
            (Upstream, ErrorType::InvalidCert, true, Some((504, Flags::UPSTREAM_TIMEOUT))),
            (Upstream, ErrorType::ReadTimedout, false, Some((504, Flags::STREAM_IDLE))),
            (Upstream, ErrorType::ReadTimedout, true, Some((504, Flags::UPSTREAM_TIMEOUT))),
            (Downstream, DEADLINE, true, Some((504, Flags::UPSTREAM_TIMEOUT))),
            (Upstream, DEADLINE, true, Some((504, Flags::UPSTREAM_TIMEOUT))),
            (Upstream, ErrorType::ConnectionClosed, false, Some((502, Flags::UPSTREAM_CLOSED))),
            (Upstream, ErrorType::ReadError, false, Some((502, Flags::UPSTREAM_CLOSED))),
            (Upstream, ErrorType::H2Error, false, Some((502, Flags::UPSTREAM_RESET))),
            (Upstream, ErrorType::InvalidHTTPHeader, false, Some((502, Flags::UPSTREAM_PROTOCOL_ERROR))),
            (Internal, ErrorType::HTTPStatus(503), false, Some((503, Flags::NO_HEALTHY_UPSTREAM))),
            (Internal, ErrorType::InternalError, false, Some((500, Flags::default()))),
            (Unset, ErrorType::UnknownError, false, Some((500, Flags::default()))),
            (Downstream, ErrorType::InvalidHTTPHeader, false, Some((400, Flags::DOWNSTREAM_PROTOCOL_ERROR))),
            (Downstream, ErrorType::ReadTimedout, false, Some((408, Flags::STREAM_IDLE))),
            (Downstream, ErrorType::ConnectionClosed, false, None),
            (Downstream, ErrorType::ConnectionClosed, true, None),
            (Downstream, ErrorType::WriteError, false, None),
            (Downstream, ErrorType::H2Error, false, None),
        ] {
            let failure = explain(&source, &etype, late);
            let told = match &failure {
                Failure::Answer(reply) => Some((reply.code(), failure.flags())),
                Failure::Gone(flags) => {
                    assert!(!flags.is_empty());
                    None
                }
            };
            assert_eq!(told, expected, "{source:?} {etype:?} {late}");
        }
    }
}
