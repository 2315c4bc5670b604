//! Connections to backends: TLS as BackendTLSPolicies have it, the Gateway's client certificate, mTLS with workloads of the mesh, the PROXY
//! protocol.
//!
//! Streams are connected with a rustls configuration of ours ([`UpstreamTls::connect`]). HTTP goes through Pingora's connector, which verifies
//! the chain of every connection and the hostname; for subjectAltNames and workloads of the mesh see [`proof`]. Whatever decides which
//! connection may be used is part of Pingora's pool key: nobody gets a connection that his own policy would not have accepted.

mod announce;
mod authorities;
mod client_certificate;
mod proof;
mod verifier;

use std::hash::{BuildHasher, Hash, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use isthmus_routing::{BackendKey, BackendValidation, Bundle, Identity, ProxyProtocol, Roots, Snapshot};
use pingora_core::protocols::Digest;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::{self, Trust};
use crate::proxy::defaults;
use crate::proxy_protocol::{self, Ends};
use proof::{Leaf, Proofs, Target};
use verifier::Verifier;

pub(crate) use announce::dial;
pub(crate) use authorities::Authorities;
pub(crate) use client_certificate::{ClientCertificate, Unusable};

/// How connections to one backend, or to one workload, are encrypted and what its certificate has to fulfil.
pub(crate) struct UpstreamTls {
    terms: Terms,
    /// SNI.
    server_name: String,
    id: u64,
    verifier: Arc<dyn ServerCertVerifier>,
    roots: Option<Arc<CaType>>,
    /// By the client certificate that is shown. Sessions are resumed within one of them and never across.
    configs: Mutex<Vec<(Option<u64>, Arc<ClientConfig>)>>,
    proofs: Proofs,
    /// When the log last said that a certificate is refused.
    complained: Mutex<Option<Instant>>,
}

/// Who asks for it.
enum Terms {
    Policy {
        validation: BackendValidation,
        /// By the position of the reference; none: the snapshot does not hold it.
        bundles: Vec<Option<Arc<Bundle>>>,
    },
    /// It is a workload of the mesh.
    Mesh(Arc<Trust>),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamTlsError {
    /// The backend's certificate does not fulfil the policy.
    #[error("the backend's certificate is refused: {0}")]
    Refused(String),
    /// The name cannot be asked for.
    #[error("`{0}` cannot be a server name")]
    Name(String),
    /// The backend is not there.
    #[error("the backend cannot be reached: {0}")]
    Unreachable(io::Error),
    /// It does not speak TLS, has nothing in common with us, or wants a client certificate that it does not get.
    #[error("the TLS handshake with the backend failed: {0}")]
    Handshake(io::Error),
    /// It did not answer in time.
    #[error("the backend's certificate could not be verified in time")]
    Timeout,
    /// The session was resumed, and its certificate is not valid any more; that of the backend may be.
    #[error("a session has lasted longer than the backend's certificate of then")]
    Outlived,
    /// A connection has one certificate, and the next connection to the same address another.
    #[error("the backend shows several certificates, and this one has not been verified")]
    Changed,
    /// The endpoint is a workload of the mesh, and we have nothing to show to it.
    #[error(
        "the endpoint is a workload of the mesh, and this proxy has no certificate of its own: see why the controller gives it none"
    )]
    NoIdentity,
    /// What the PROXY protocol says would come before TLS, where a sidecar does not look for it.
    #[error(
        "the endpoint is a workload of the mesh, and HTTP with the PROXY protocol cannot be sent to one: exclude its port from the mesh"
    )]
    Announced,
}

impl UpstreamTlsError {
    /// Whether the certificate is to blame.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Changed | Self::Outlived)
    }
}

/// On whose behalf a backend is asked.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Of the Gateway.
    certificate: Option<Arc<ClientCertificate>>,
    /// Of the client's connection.
    ends: Ends,
}

impl Caller {
    /// A client, on its connection to the Gateway that shows this certificate.
    pub(crate) fn new(ends: Ends, certificate: Option<Arc<ClientCertificate>>) -> Self {
        Self { certificate, ends }
    }

    #[cfg(test)]
    pub(crate) fn of_nobody() -> Self {
        let ends = Ends { source: ([192, 0, 2, 1], 5555).into(), destination: ([192, 0, 2, 2], 80).into() };
        Self { certificate: None, ends }
    }

    /// What a connection on its behalf begins with.
    pub(crate) fn header(&self, version: Option<ProxyProtocol>) -> Vec<u8> {
        version.map_or_else(Vec::new, |version| proxy_protocol::header(version, self.ends.source, self.ends.destination))
    }

    /// What is shown to backends that ask for it.
    pub(crate) fn certificate(&self) -> Option<&ClientCertificate> {
        self.certificate.as_deref()
    }
}

/// Client certificates that one backend is asked with at the same time; past it sessions are not resumed.
const CONFIGS: usize = 16;

/// How often the log says that certificates of a backend are refused; metrics and the access log tell of each.
const COMPLAINTS: Duration = Duration::from_secs(30);

impl UpstreamTls {
    /// Keeps what was there before if it is made of the same.
    pub(crate) fn compile(
        backend: &BackendKey,
        validation: &BackendValidation,
        snapshot: &Snapshot,
        previous: Option<&Arc<Self>>,
    ) -> Arc<Self> {
        let bundles: Vec<_> = validation.roots.bundles().iter().map(|key| snapshot.bundles.get(key).cloned()).collect();
        if let Some(previous) = previous
            && previous.terms.are(validation, &bundles)
        {
            return previous.clone();
        }
        let authorities = match &validation.roots {
            Roots::System => Authorities::system(),
            Roots::Bundles(_) => Authorities::of(bundles.iter().flatten().map(AsRef::as_ref)),
        };
        if authorities.store.is_empty() {
            tracing::warn!("{backend}: there is no certificate of an authority, so no certificate of the backend is valid");
        }
        let algorithms = PROVIDER.signature_verification_algorithms;
        Arc::new(Self {
            verifier: Arc::new(Verifier::new(authorities.store, validation.subject_alt_names.clone(), algorithms)),
            server_name: validation.hostname.as_str().to_owned(),
            terms: Terms::Policy { validation: validation.clone(), bundles },
            id: next_id(),
            roots: authorities.pingora,
            configs: Mutex::default(),
            proofs: Proofs::default(),
            complained: Mutex::default(),
        })
    }

    /// For a workload of the mesh: TLS 1.3 only, each side shows a certificate, and no session is resumed.
    pub(crate) fn of_identity(trust: &Arc<Trust>, identity: &Identity) -> Arc<Self> {
        Arc::new(Self {
            server_name: trust.server_name(identity),
            id: next_id(),
            verifier: trust.expecting(identity),
            roots: trust.authorities().pingora.clone(),
            terms: Terms::Mesh(trust.clone()),
            configs: Mutex::default(),
            proofs: Proofs::default(),
            complained: Mutex::default(),
        })
    }

    /// Whether it is for a workload of the mesh.
    pub(crate) fn is_mesh(&self) -> bool {
        matches!(self.terms, Terms::Mesh(_))
    }

    /// Shakes hands with a backend; `client` is shown if it asks, unless it is a workload of the mesh. After [`UpstreamTlsError::Outlived`] the next handshake is a full one. Takes as long as the backend does: the caller has a timeout.
    ///
    /// # Errors
    /// When the backend's certificate does not fulfil the policy, or there is no handshake.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        client: Option<&ClientCertificate>,
    ) -> Result<TlsStream<TcpStream>, UpstreamTlsError> {
        if self.lacks_identity() {
            return Err(UpstreamTlsError::NoIdentity);
        }
        let config = self.config(self.shown(client));
        let shaken = self.shake(config.clone(), stream).await;
        if matches!(shaken, Err(UpstreamTlsError::Outlived)) {
            // Its sessions go with it.
            self.lock_configs().retain(|(_, known)| !Arc::ptr_eq(known, &config));
        }
        shaken
    }

    /// Sets what a peer of this backend needs; the name is what Pingora verifies, unless it has to be one of the subjectAltNames.
    pub(crate) fn set(&self, options: &mut PeerOptions) {
        options.ca.clone_from(&self.roots);
        options.verify_hostname = !self.terms.have_names();
    }

    /// SNI.
    pub(crate) fn server_name(&self) -> &str {
        &self.server_name
    }

    /// Whether a connection of Pingora's has to be asked for with [`UpstreamTls::admit`] before a request is sent on it: what it must show is
    /// more than Pingora verifies.
    pub(crate) fn needs_proof(&self) -> bool {
        self.is_mesh() || self.terms.have_names()
    }

    /// Whether a connection of Pingora's, of which this is the digest, shows a certificate that fulfils the policy. Asks the endpoint if
    /// that is not known.
    pub(crate) async fn admit(
        &self,
        digest: Option<&Digest>,
        address: SocketAddr,
        (caller, version): (&Caller, Option<ProxyProtocol>),
        within: Duration,
    ) -> Result<(), Arc<UpstreamTlsError>> {
        let digest = digest.and_then(|digest| digest.ssl_digest.as_ref());
        let Some(leaf) = digest.and_then(|digest| Leaf::try_from(digest.cert_digest.as_slice()).ok()) else {
            return Err(Arc::new(UpstreamTlsError::Refused("it is not known".to_owned())));
        };
        let probe = self.probe(address, caller, version);
        self.proofs.admit(&leaf, self.target(address, caller), probe, within).await
    }

    /// Why this endpoint must not be asked, or was refused a moment ago.
    pub(crate) fn failure(
        &self,
        address: SocketAddr,
        (caller, version): (&Caller, Option<ProxyProtocol>),
    ) -> Option<Arc<UpstreamTlsError>> {
        match &self.terms {
            Terms::Mesh(_) if self.lacks_identity() => return Some(Arc::new(UpstreamTlsError::NoIdentity)),
            Terms::Mesh(_) if version.is_some() => return Some(Arc::new(UpstreamTlsError::Announced)),
            _ => {}
        }
        if self.needs_proof() { self.proofs.recent_refusal(&self.target(address, caller)) } else { None }
    }

    /// Says in the log why a certificate is refused, unless it has done so a short time ago.
    pub(crate) fn complain(&self, address: &SocketAddr, fault: &dyn std::fmt::Display) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
            *complained = Some(Instant::now());
            let advice = if self.is_mesh() { identity::ADVICE } else { "" };
            tracing::warn!("the certificate of {address}, for `{}`, is refused: {fault}{advice}", self.server_name);
        }
    }

    /// A handshake of our own; the digest of the certificate that it has verified.
    async fn probe(
        &self,
        address: SocketAddr,
        caller: &Caller,
        version: Option<ProxyProtocol>,
    ) -> Result<Leaf, UpstreamTlsError> {
        let mut config = self.make_config(self.shown(caller.certificate()));
        // A resumed session has the certificate of the one before it, which need not be what the endpoint shows now.
        config.resumption = Resumption::disabled();
        // Some servers do not speak to clients without ALPN, and a sidecar of before does not know that it is only looked at.
        let wanted: &[&[u8]] = if self.is_mesh() { &[identity::PROBE, b"h2", b"http/1.1"] } else { &[b"h2", b"http/1.1"] };
        config.alpn_protocols = wanted.iter().map(|protocol| protocol.to_vec()).collect();
        let shake = async {
            let header = caller.header(version);
            let stream = announce::dial(address, &header).await.map_err(UpstreamTlsError::Unreachable)?;
            let mut stream = self.shake(Arc::new(config), stream).await?;
            let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(|der| proof::leaf_of(der));
            // What was asked for is known already.
            let _ = stream.shutdown().await;
            leaf.ok_or_else(|| UpstreamTlsError::Refused("there is none".to_owned()))
        };
        tokio::time::timeout(defaults::CONNECT, shake).await.unwrap_or(Err(UpstreamTlsError::Timeout))
    }

    async fn shake(&self, config: Arc<ClientConfig>, stream: TcpStream) -> Result<TlsStream<TcpStream>, UpstreamTlsError> {
        let name =
            ServerName::try_from(self.server_name.clone()).map_err(|_| UpstreamTlsError::Name(self.server_name.clone()))?;
        let stream = TlsConnector::from(config).connect(name.clone(), stream).await.map_err(|error| self.explain(error))?;
        let session = stream.get_ref().1;
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            // Rustls verifies none, and it may have expired since.
            let chain = session.peer_certificates().and_then(<[_]>::split_first);
            let (leaf, issuers) = chain.ok_or(UpstreamTlsError::Outlived)?;
            let verified = self.verifier.verify_server_cert(leaf, issuers, &name, &[], UnixTime::now());
            verified.map_err(|_| UpstreamTlsError::Outlived)?;
        }
        Ok(stream)
    }

    fn lock_configs(&self) -> MutexGuard<'_, Vec<(Option<u64>, Arc<ClientConfig>)>> {
        self.configs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn config(&self, client: Option<&ClientCertificate>) -> Arc<ClientConfig> {
        let id = client.map(ClientCertificate::id);
        let mut configs = self.lock_configs();
        if let Some((_, known)) = configs.iter().find(|(known, _)| *known == id) {
            return known.clone();
        }
        let config = Arc::new(self.make_config(client));
        if configs.len() >= CONFIGS {
            configs.remove(0);
        }
        configs.push((id, config.clone()));
        config
    }

    fn make_config(&self, client: Option<&ClientCertificate>) -> ClientConfig {
        let versions: &[&rustls::SupportedProtocolVersion] = match self.terms {
            Terms::Policy { .. } => &[&rustls::version::TLS13, &rustls::version::TLS12],
            Terms::Mesh(_) => &[&rustls::version::TLS13],
        };
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(versions)
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        let mut config = match client {
            Some(client) => builder.with_client_cert_resolver(client.resolver()),
            None => builder.with_no_client_auth(),
        };
        if self.is_mesh() {
            config.resumption = Resumption::disabled();
        }
        config
    }

    /// What a backend is shown on behalf of a client that comes with this.
    fn shown<'s>(&'s self, client: Option<&'s ClientCertificate>) -> Option<&'s ClientCertificate> {
        match &self.terms {
            Terms::Policy { .. } => client,
            Terms::Mesh(trust) => trust.shown().map(AsRef::as_ref),
        }
    }

    fn target(&self, address: SocketAddr, caller: &Caller) -> Target {
        (address, self.shown(caller.certificate()).map(ClientCertificate::id))
    }

    fn lacks_identity(&self) -> bool {
        matches!(&self.terms, Terms::Mesh(trust) if trust.shown().is_none())
    }

    fn explain(&self, error: io::Error) -> UpstreamTlsError {
        let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        match (&self.terms, fault) {
            (Terms::Policy { .. }, Some(rustls::Error::InvalidCertificate(fault))) => {
                UpstreamTlsError::Refused(verifier::reason(fault))
            }
            (Terms::Mesh(_), Some(fault @ rustls::Error::InvalidCertificate(_))) => {
                UpstreamTlsError::Refused(identity::reason(fault))
            }
            (Terms::Mesh(_), Some(rustls::Error::AlertReceived(AlertDescription::UnrecognisedName))) => {
                UpstreamTlsError::Refused("the workload there says that it is another one".to_owned())
            }
            _ => UpstreamTlsError::Handshake(error),
        }
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("server_name", &self.server_name).field("id", &self.id).finish_non_exhaustive()
    }
}

impl Terms {
    /// Whether the certificate has to have one of these names.
    ///
    /// > 3. If SubjectAltNames are specified, Hostname can be used for certificate selection
    /// >    but MUST NOT be used for authentication.
    fn have_names(&self) -> bool {
        matches!(self, Self::Policy { validation, .. } if !validation.subject_alt_names.is_empty())
    }

    fn are(&self, wanted: &BackendValidation, held: &[Option<Arc<Bundle>>]) -> bool {
        matches!(self, Self::Policy { validation, bundles } if validation == wanted && bundles == held)
    }
}

/// Makes a peer one of this caller's: what it shows, what its connections begin with, and whom they may be shared with. `kind` is
/// whatever else must not be mixed.
pub(crate) fn personalise(
    peer: &mut HttpPeer,
    (tls, version): (Option<&UpstreamTls>, Option<ProxyProtocol>),
    caller: &Caller,
    kind: impl Hash,
) {
    let certificate = tls.and_then(|tls| tls.shown(caller.certificate()));
    peer.client_cert_key = certificate.map(|certificate| certificate.pingora());
    if let Some(version) = version {
        peer.options.custom_l4 = Some(Arc::new(announce::Announcing::new(caller.header(Some(version)))));
        peer.options.idle_timeout = Some(defaults::ANNOUNCED_IDLE);
    }
    let ends = version.map(|version| (version, caller.ends.source, caller.ends.destination));
    let certificate = certificate.map(|certificate| certificate.id());
    peer.group_key = GROUPS.hash_one((kind, tls.map(|tls| tls.id), certificate, ends));
}

/// Whether Pingora gave up a connection because of the backend's certificate. It keeps no more than the text of rustls's error.
pub(crate) fn is_refusal(error: &pingora_error::Error) -> bool {
    let refused = |text: &str| text.contains("invalid peer certificate");
    error.etype == pingora_error::ErrorType::InvalidCert
        || error.etype == pingora_error::ErrorType::TLSHandshakeFailure
            && error.context.as_ref().is_some_and(|context| refused(context.as_str()))
}

/// Who writes policies or connects as a client cannot make two groups collide: the key is drawn when the process starts.
static GROUPS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

pub(crate) static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// A number that nothing else in this process has.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

#[cfg(test)]
mod tests;
