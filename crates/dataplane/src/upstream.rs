//! Connections to backends: TLS as BackendTLSPolicies have it, the Gateway's client certificate, the PROXY protocol.
//!
//! Streams are connected with a rustls configuration of ours ([`UpstreamTls::connect`]). HTTP goes through Pingora's connector, which verifies
//! the chain of every connection and the hostname; for subjectAltNames see [`proof`]. Whatever decides which connection may be
//! used is part of Pingora's pool key: nobody gets a connection that his own policy would not have accepted.

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

use isthmus_routing::{BackendKey, BackendValidation, Bundle, Hostname, ProxyProtocol, Roots, Snapshot};
use pingora_core::protocols::Digest;
use pingora_core::protocols::tls::CaType;
use pingora_core::upstreams::peer::{HttpPeer, PeerOptions};
use rustls::client::Resumption;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, HandshakeKind};
use rustls_pki_types::{ServerName, UnixTime};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::proxy::defaults;
use crate::proxy_protocol::{self, Ends};
use authorities::Authorities;
use proof::{Leaf, Proofs};
use verifier::Verifier;

pub(crate) use announce::dial;
pub(crate) use client_certificate::ClientCertificate;

/// How connections to one backend are encrypted and what its certificate has to fulfil.
pub(crate) struct UpstreamTls {
    validation: BackendValidation,
    /// By the position of the reference; none: the snapshot does not hold it.
    bundles: Vec<Option<Arc<Bundle>>>,
    id: u64,
    verifier: Arc<Verifier>,
    roots: Option<Arc<CaType>>,
    /// By the client certificate that is shown. Sessions are resumed within one of them and never across.
    configs: Mutex<Vec<(Option<u64>, Arc<ClientConfig>)>>,
    proofs: Proofs,
    /// When the log last said that a certificate is refused.
    complained: Mutex<Option<Instant>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamTlsError {
    /// The backend's certificate does not fulfil the policy.
    #[error("the backend's certificate is refused: {0}")]
    Refused(String),
    /// The name cannot be asked for.
    #[error("`{0}` cannot be a server name")]
    Name(Hostname),
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

    fn certificate_id(&self) -> Option<u64> {
        self.certificate.as_ref().map(|certificate| certificate.id())
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
            && previous.validation == *validation
            && previous.bundles == bundles
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
            validation: validation.clone(),
            bundles,
            id: next_id(),
            roots: authorities.pingora,
            configs: Mutex::default(),
            proofs: Proofs::default(),
            complained: Mutex::default(),
        })
    }

    /// Shakes hands with a backend; `client` is shown if it asks. After [`UpstreamTlsError::Outlived`] the next handshake is a full one. Takes as long as the backend does: the caller has a timeout.
    ///
    /// # Errors
    /// When the backend's certificate does not fulfil the policy, or there is no handshake.
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
        client: Option<&ClientCertificate>,
    ) -> Result<TlsStream<TcpStream>, UpstreamTlsError> {
        let config = self.config(client);
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
        options.verify_hostname = !self.needs_proof();
    }

    /// SNI.
    pub(crate) fn server_name(&self) -> &str {
        self.validation.hostname.as_str()
    }

    /// Whether a connection of Pingora's has to be asked for with [`UpstreamTls::admit`] before a request is sent on it.
    ///
    /// > 3. If SubjectAltNames are specified, Hostname can be used for certificate selection
    /// >    but MUST NOT be used for authentication.
    pub(crate) fn needs_proof(&self) -> bool {
        !self.validation.subject_alt_names.is_empty()
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
        self.proofs.admit(&leaf, (address, caller.certificate_id()), probe, within).await
    }

    /// Why this endpoint was refused a moment ago.
    pub(crate) fn recent_failure(&self, address: SocketAddr, caller: &Caller) -> Option<Arc<UpstreamTlsError>> {
        if self.needs_proof() { self.proofs.recent_failure(&(address, caller.certificate_id())) } else { None }
    }

    /// Says in the log why a certificate is refused, unless it has done so a short time ago.
    pub(crate) fn complain(&self, address: &SocketAddr, fault: &dyn std::fmt::Display) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| at.elapsed() >= COMPLAINTS) {
            *complained = Some(Instant::now());
            tracing::warn!("the certificate of {address}, for `{}`, is refused: {fault}", self.validation.hostname);
        }
    }

    /// A handshake of our own; the digest of the certificate that it has verified.
    async fn probe(
        &self,
        address: SocketAddr,
        caller: &Caller,
        version: Option<ProxyProtocol>,
    ) -> Result<Leaf, UpstreamTlsError> {
        let mut config = self.make_config(caller.certificate.as_deref());
        // A resumed session has the certificate of the one before it, which need not be what the endpoint shows now.
        config.resumption = Resumption::disabled();
        // Some servers do not speak to clients without ALPN.
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
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
        let hostname = &self.validation.hostname;
        let name = ServerName::try_from(hostname.as_str().to_owned()).map_err(|_| UpstreamTlsError::Name(hostname.clone()))?;
        let stream = TlsConnector::from(config).connect(name.clone(), stream).await.map_err(explain)?;
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
        let builder = ClientConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .expect("ring has suites for both versions")
            .dangerous()
            .with_custom_certificate_verifier(self.verifier.clone());
        match client {
            Some(client) => builder.with_client_cert_resolver(client.resolver()),
            None => builder.with_no_client_auth(),
        }
    }
}

impl std::fmt::Debug for UpstreamTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamTls").field("validation", &self.validation).field("id", &self.id).finish_non_exhaustive()
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
    let certificate = caller.certificate.as_ref().filter(|_| tls.is_some());
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

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(ring::default_provider()));

/// A number that nothing else in this process has.
fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Relaxed)
}

fn explain(error: io::Error) -> UpstreamTlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(fault)) => UpstreamTlsError::Refused(verifier::reason(fault)),
        _ => UpstreamTlsError::Handshake(error),
    }
}

#[cfg(test)]
mod tests;
