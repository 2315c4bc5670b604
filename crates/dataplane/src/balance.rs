//! Backends -> the endpoint of the next try.
//!
//! A [`BackendState`] belongs to a configuration; the [`EndpointState`]s behind it live on for as long as their address does, so
//! that what is in flight is still counted after a change.

mod choice;
mod endpoint;
mod interleave;

use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_routing::{Backend, BackendKey, BackendProtocol, BackendTls, Snapshot};

use crate::identity::Membership;
use crate::upstream::{Caller, UpstreamTls, UpstreamTlsError};
pub(crate) use endpoint::{EndpointState, InFlight, Wire};
pub(crate) use interleave::Interleave;

/// A backend with the state of its endpoints.
#[derive(Debug)]
pub(crate) struct BackendState {
    key: BackendKey,
    source: Arc<Backend>,
    /// Of its policy.
    tls: Option<Arc<UpstreamTls>>,
    endpoints: Box<[Arc<EndpointState>]>,
}

/// The endpoints that a request has been sent to, by position.
#[derive(Debug, Default)]
pub(crate) struct Tried(Vec<usize>);

impl BackendState {
    /// Keeps what is unchanged: the whole state if the backend and what verifies it are the same, else that of each endpoint. How an
    /// endpoint is encrypted is for the backend's policy to say, and without one for the mesh.
    pub(crate) fn compile(
        key: &BackendKey,
        source: &Arc<Backend>,
        (snapshot, membership): (&Snapshot, Option<&Membership>),
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let tls = match &source.tls {
            Some(BackendTls::Verified(validation)) => {
                let before = previous.and_then(|previous| previous.tls.as_ref());
                Some(UpstreamTls::compile(key, validation, snapshot, before))
            }
            Some(BackendTls::Invalid) | None => None,
        };
        let endpoint = |endpoint: &isthmus_routing::Endpoint| {
            let before = previous.and_then(|old| {
                let position = old.endpoints.binary_search_by(|old| old.address().cmp(&endpoint.address)).ok()?;
                Some(&old.endpoints[position])
            });
            let of_mesh = || membership.filter(|_| source.tls.is_none())?.upstream(&endpoint.address);
            EndpointState::compile(endpoint.address, (tls.as_ref().or_else(of_mesh), source.proxy_protocol), before)
        };
        let mut endpoints: Vec<_> = source.endpoints.iter().map(endpoint).collect();
        endpoints.sort_by_key(|endpoint| *endpoint.address());
        if let Some(previous) = previous
            && (Arc::ptr_eq(&previous.source, source) || previous.source == *source)
            && previous.tls.as_ref().map(Arc::as_ptr) == tls.as_ref().map(Arc::as_ptr)
            && endpoints.iter().map(Arc::as_ptr).eq(previous.endpoints.iter().map(Arc::as_ptr))
        {
            return previous.clone();
        }
        Arc::new(Self { key: key.clone(), source: source.clone(), tls, endpoints: endpoints.into() })
    }

    /// Its name in the configuration.
    pub(crate) fn key(&self) -> &BackendKey {
        &self.key
    }

    /// Whether an endpoint is one of its endpoints.
    pub(crate) fn has(&self, endpoint: &SocketAddr) -> bool {
        self.endpoints.binary_search_by(|own| own.address().cmp(endpoint)).is_ok()
    }

    /// Whether nothing may be sent to it, because its policy cannot be carried out.
    ///
    /// > Connections using an invalid
    /// > CACertificateRef MUST fail, and the client MUST receive an HTTP 5xx error
    /// > response.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.source.tls, Some(BackendTls::Invalid))
    }

    /// What its endpoints speak.
    pub(crate) fn protocol(&self) -> BackendProtocol {
        self.source.protocol
    }

    /// Whether nobody can answer.
    pub(crate) fn is_empty(&self) -> bool {
        self.endpoints.is_empty()
    }

    /// The endpoint for the next try: of two drawn at random, among those that were not tried yet, the one with fewer requests in
    /// flight. Once all were tried, all are candidates again. None: there are no endpoints.
    pub(crate) fn choose(&self, tried: &mut Tried) -> Option<InFlight> {
        let load = |position: usize| self.endpoints[position].in_flight();
        let position = choice::least_of_two(self.endpoints.len(), &tried.0, load, |below| fastrand::usize(..below))?;
        if tried.0.len() >= self.endpoints.len() {
            tried.0.clear();
        }
        tried.0.push(position);
        Some(InFlight::new(&self.endpoints[position]))
    }

    /// The same for HTTP, passing over endpoints that must not be asked, or whose certificate was refused a moment ago.
    ///
    /// # Errors
    /// When that is true of all of them, or there are none.
    pub(crate) fn choose_for(&self, caller: &Caller, tried: &mut Tried) -> Result<InFlight, Unchosen> {
        let mut refused = None;
        for _ in 0..self.endpoints.len() {
            let chosen = self.choose(tried).ok_or(Unchosen::Nobody)?;
            match chosen.failure(caller) {
                None => return Ok(chosen),
                failure => refused = failure,
            }
        }
        Err(refused.map_or(Unchosen::Nobody, Unchosen::Refused))
    }
}

/// Why no endpoint can be asked.
#[derive(Debug)]
pub(crate) enum Unchosen {
    /// There is none.
    Nobody,
    /// None must be asked, or all were refused a moment ago; one of the reasons.
    Refused(Arc<UpstreamTlsError>),
}

#[cfg(test)]
mod tests {
    use isthmus_routing::Endpoint;

    use super::*;

    fn compile(backend: &Arc<Backend>, previous: Option<&Arc<BackendState>>) -> Arc<BackendState> {
        let key = "Service/a/b:80".parse().expect("a key");
        BackendState::compile(&key, backend, (&Snapshot::default(), None), previous)
    }

    fn backend(ports: &[u16]) -> Arc<Backend> {
        let endpoint = |port: &u16| Endpoint { address: ([10, 0, 0, 1], *port).into() };
        Arc::new(Backend { endpoints: ports.iter().map(endpoint).collect(), ..Backend::default() })
    }

    #[test]
    fn an_equal_backend_keeps_its_state_and_an_edited_one_that_of_its_endpoints() {
        let first = compile(&backend(&[1, 2, 3]), None);
        let same = compile(&backend(&[1, 2, 3]), Some(&first));
        assert!(Arc::ptr_eq(&first, &same));
        let edited = compile(&backend(&[2, 3, 4]), Some(&same));
        assert!(Arc::ptr_eq(&edited.endpoints[0], &first.endpoints[1]));
        assert!(Arc::ptr_eq(&edited.endpoints[1], &first.endpoints[2]));
        assert_eq!(edited.endpoints[2].address().port(), 4);
    }

    #[test]
    fn every_endpoint_is_tried_once_before_one_is_tried_again() {
        let state = compile(&backend(&[1, 2, 3, 4, 5]), None);
        for _ in 0..200 {
            let mut tried = Tried::default();
            for round in 1..=3 {
                let mut ports: Vec<_> = (0..5).map(|_| state.choose(&mut tried).expect("five").address().port()).collect();
                ports.sort_unstable();
                assert_eq!(ports, [1, 2, 3, 4, 5], "round {round}");
            }
        }
    }

    #[test]
    fn nobody_is_chosen_of_none() {
        assert!(compile(&backend(&[]), None).choose(&mut Tried::default()).is_none());
    }

    #[test]
    fn the_busy_endpoint_gets_less_and_idle_ones_share_evenly() {
        let state = compile(&backend(&[1, 2, 3, 4]), None);
        let busy: Vec<_> = (0..100).map(|_| InFlight::new(&state.endpoints[0])).collect();
        let mut counts = [0; 4];
        for _ in 0..9000 {
            let chosen = state.choose(&mut Tried::default()).expect("four");
            counts[usize::from(chosen.address().port()) - 1] += 1;
        }
        assert_eq!(counts[0], 0, "it loses every comparison");
        assert!(counts[1..].iter().all(|count| (2700..3300).contains(count)), "{counts:?}");
        drop(busy);
        assert_eq!(state.endpoints[0].in_flight(), 0);
    }
}
