//! What is known of a request on its way through the phases.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderMap, UPGRADE};
use http::{Method, Version};
use isthmus_routing::BackendProtocol;
use pingora_core::protocols::http::ServerSession;
use pingora_proxy::Session;

use super::deadline::{Deadlines, Manner, Patience};
use super::grpc;
use super::timed::Loan;
use crate::balance::{BackendState, InFlight, Tried, Wire};
use crate::config::parent::Matched;
use crate::config::rule::CompiledRule;
use crate::config::{Config, Fronted};
use crate::connection::Connection;
use crate::filter::Filters;
use crate::filter::cors::Granted;
use crate::filter::mirror::Copies;
use crate::telemetry::{Flags, RequestRecord, Telemetry};
use crate::upstream::Caller;

/// Made anew for each request.
#[derive(Debug, Default)]
pub(crate) struct RequestContext {
    /// What telemetry is told in the end; none: the request was not begun.
    pub(super) record: Option<RequestRecord>,
    pub(super) connection: Option<Arc<Connection>>,
    /// The client: the connection's peer, or whom trusted proxies name. None: the request was refused before that was known.
    pub(super) client: Option<SocketAddr>,
    /// The configuration that decides, from the request's begin to its end.
    pub(super) config: Option<Arc<Config>>,
    pub(super) grpc: bool,
    /// The rule that took the request.
    pub(super) matched: Option<Stage>,
    /// The rule of the Service that it led to, where a Gateway evaluates the routes of Services.
    pub(super) onward: Option<Stage>,
    /// Where it goes.
    pub(super) destination: Option<Destination>,
    pub(super) tried: Tried,
    /// Counts the current try at its endpoint.
    pub(super) in_flight: Option<InFlight>,
    pub(super) deadlines: Deadlines,
    /// The real session, while one with an alarm is in its place.
    pub(super) loan: Option<Loan>,
    pub(super) try_started: Option<Instant>,
    pub(super) copies: Option<Copies>,
    /// What the response gets of a CORS filter.
    pub(super) cors: Option<Granted>,
}

/// A rule that took the request, and what it chose.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) matched: Matched,
    /// The position of the backendRef; none: none was chosen.
    pub(super) position: Option<usize>,
}

/// The backend that was chosen, and how it is spoken to.
#[derive(Debug)]
pub(super) struct Destination {
    pub(super) backend: Arc<BackendState>,
    /// On whose behalf.
    pub(super) caller: Caller,
    pub(super) wire: Wire,
    pub(super) manner: Manner,
}

impl Stage {
    /// The filters of the rule, then those of the chosen backendRef.
    pub(super) fn filters(&self) -> impl DoubleEndedIterator<Item = &Filters> {
        let rule = &self.matched.rule;
        std::iter::once(&rule.filters).chain(self.position.and_then(|position| rule.backend_filters(position)))
    }
}

impl RequestContext {
    /// The request's header is complete.
    pub(super) fn begin(&mut self, session: &Session, config: Arc<Config>, telemetry: &Telemetry) {
        let request = session.req_header();
        let mut record = telemetry.begin(&request.headers);
        record.config_version = Some(config.version);
        self.record = Some(record);
        self.connection = Connection::of(session).cloned();
        self.config = Some(config);
        self.grpc = grpc::is_grpc(&request.method, &request.headers);
    }

    /// Who has the request pass, in their order.
    pub(super) fn stages(&self) -> impl DoubleEndedIterator<Item = &Stage> {
        [self.matched.as_ref(), self.onward.as_ref()].into_iter().flatten()
    }

    /// The rule whose retries count: the Service's if it says something of them.
    pub(super) fn retrying(&self) -> Option<&Arc<CompiledRule>> {
        let asked = self.onward.as_ref().filter(|stage| stage.matched.rule.retry.is_configured());
        asked.or(self.matched.as_ref()).map(|stage| &stage.matched.rule)
    }

    /// How long things may take: no longer than any of the rules lets them.
    pub(super) fn patience(&self) -> Option<Patience> {
        self.stages().map(|stage| stage.matched.rule.patience).reduce(Patience::and)
    }

    /// A call of a Service that the configuration does not hold is that Service's all the same.
    pub(super) fn attribute(&mut self, telemetry: &Telemetry) {
        let (Some(record), Some(config), Some(connection)) = (&mut self.record, &self.config, &self.connection) else { return };
        if record.parent.is_none()
            && let Some(Fronted::Port(service)) = config.frontends.find(connection.local)
        {
            record.parent = Some(telemetry.service(&service));
        }
    }

    /// Whether an endpoint may switch protocols: only if the client has asked for it.
    pub(super) fn asks_for_upgrade(&self) -> bool {
        self.destination.as_ref().is_some_and(|destination| destination.manner == Manner::Upgrade)
    }

    /// Notes what went wrong.
    pub(super) fn flag(&mut self, flags: Flags) {
        if let Some(record) = &mut self.record {
            record.flags.set(flags);
        }
    }

    /// The certificate of an endpoint was refused.
    pub(super) fn count_refused_certificate(&mut self) {
        if let Some(record) = &mut self.record {
            record.refused_certificates += 1;
        }
    }

    /// How often the request was sent to an endpoint again.
    pub(super) fn retries(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.attempts.saturating_sub(1))
    }

    /// Whether the client should close its connection.
    pub(super) fn is_ending(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| connection.is_ending())
    }

    /// Puts the real session back, if another is in its place.
    pub(super) fn give_back(&mut self, session: &mut ServerSession) {
        if let Some(loan) = self.loan.take() {
            loan.give_back(session);
        }
    }
}

/// What is spoken with a backend for this request.
pub(super) fn wire_of(protocol: BackendProtocol, grpc: bool, upgrade: bool) -> Wire {
    match protocol {
        // Pingora cannot upgrade over HTTP/2.
        _ if upgrade => Wire::H1,
        BackendProtocol::H2c => Wire::H2,
        BackendProtocol::Http if grpc => Wire::H2,
        BackendProtocol::Http | BackendProtocol::WebSocket => Wire::H1,
    }
}

/// Whether a request asks for WebSocket, the one upgrade that is passed on.
pub(super) fn is_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    version == Version::HTTP_11
        && *method == Method::GET
        && headers.get(UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// The final response that the client has been sent, or begun to be sent.
pub(super) fn answered(session: &ServerSession) -> Option<http::StatusCode> {
    let status = session.response_written()?.status;
    (!status.is_informational() || status == http::StatusCode::SWITCHING_PROTOCOLS).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spoken() {
        use BackendProtocol::{H2c, Http, WebSocket};
        for (protocol, grpc, upgrade, wire) in [
            (Http, false, false, Wire::H1),
            (Http, true, false, Wire::H2),
            (Http, false, true, Wire::H1),
            (H2c, false, false, Wire::H2),
            (H2c, true, false, Wire::H2),
            (H2c, false, true, Wire::H1),
            (WebSocket, false, true, Wire::H1),
            (WebSocket, false, false, Wire::H1),
        ] {
            assert_eq!(wire_of(protocol, grpc, upgrade), wire, "{protocol:?} {grpc} {upgrade}");
        }
    }

    #[test]
    fn only_websockets_are_upgraded() {
        let mut headers = HeaderMap::new();
        assert!(!is_websocket(&Method::GET, Version::HTTP_11, &headers));
        headers.insert(UPGRADE, http::HeaderValue::from_static("WebSocket"));
        assert!(is_websocket(&Method::GET, Version::HTTP_11, &headers));
        assert!(!is_websocket(&Method::POST, Version::HTTP_11, &headers));
        assert!(!is_websocket(&Method::GET, Version::HTTP_2, &headers));
        headers.insert(UPGRADE, http::HeaderValue::from_static("h2c"));
        assert!(!is_websocket(&Method::GET, Version::HTTP_11, &headers));
    }
}
