//! A connection or a datagram -> the backend that it goes to.

use std::sync::Arc;

use isthmus_routing::Protocol;

use crate::balance::BackendState;
use crate::config::rule::CompiledRule;
use crate::config::{CompiledParent, Config};

/// Why it goes nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No route of the listener takes it.
    NoRoute,
    /// The backendRef that was drawn is invalid, none has a weight, or the backend's policy cannot be carried out.
    Invalid,
    /// The backend has no endpoint.
    NoEndpoint,
}

/// Decides where a connection or a session of datagrams goes: each call is one, and gets the next share of the rule. The backend has
/// endpoints.
///
/// # Errors
/// When it goes nowhere.
pub(crate) fn destination(
    config: &Config,
    listener: &CompiledParent,
    server_name: Option<&str>,
) -> Result<Arc<BackendState>, Refused> {
    let rule = listener.stream(server_name).ok_or(Refused::NoRoute)?;
    draw(config, listener, &rule).1
}

/// The next share of a rule: the position of its backendRef, if one was drawn, and the backend.
pub(super) fn draw(
    config: &Config,
    listener: &CompiledParent,
    rule: &CompiledRule,
) -> (Option<usize>, Result<Arc<BackendState>, Refused>) {
    let Some(share) = rule.share().filter(|_| !rule.is_invalid()) else { return (None, Err(Refused::Invalid)) };
    let backend = match share.backend {
        None => Err(Refused::Invalid),
        Some(key) => match config.backend(key).filter(|backend| !backend.is_empty()) {
            None => Err(Refused::NoEndpoint),
            Some(backend) if backend.is_refused() && is_encrypted_here(listener) => Err(Refused::Invalid),
            Some(backend) => Ok(backend.clone()),
        },
    };
    (Some(share.position), backend)
}

/// Whether policies for TLS towards the backend are of any matter.
fn is_encrypted_here(listener: &CompiledParent) -> bool {
    !listener.source().is_passthrough() && listener.source().protocol() != Protocol::Udp
}
