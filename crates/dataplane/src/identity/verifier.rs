//! What the certificate of a workload has to fulfil, on whichever side of a connection it is.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use isthmus_routing::{Identity, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// How far the clock of whoever has signed a certificate may be ahead of ours. Its end needs no such margin: certificates are renewed
/// at half of their life.
const CLOCKS: Duration = Duration::from_secs(300);

/// The longest URI that SPIFFE has.
const LONGEST_URI: usize = 2048;

/// Verifies the certificates of workloads: a chain to an authority of the mesh, validity, and exactly one name, of the trust domain.
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    domain: TrustDomain,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A check that webpki does not make.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the mesh has no authority that could have signed it")]
    NoAuthority,
    #[error("it cannot be read")]
    Unreadable,
    #[error("it is one of an authority, or may sign others, and so is none of a workload")]
    Authority,
    #[error("its key must not be used for signatures")]
    Usage,
    #[error("it has {0} URIs as names, and a workload has exactly one")]
    Names(usize),
    #[error("its name `{0}` is not one of a workload of the trust domain `{1}`")]
    OtherDomain(String, TrustDomain),
    #[error("it is that of {0}, and {1} was expected")]
    OtherIdentity(Identity, Identity),
    #[error("{0}")]
    Chain(webpki::Error),
}

impl Verifier {
    pub(super) fn new(roots: Arc<RootCertStore>, domain: TrustDomain, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, domain, algorithms }
    }

    /// Whose it is, if it is a workload's at all; who has signed it is not asked.
    pub(super) fn identify(&self, leaf: &CertificateDer<'_>) -> Result<Identity, Error> {
        let (_, leaf) = X509Certificate::from_der(leaf).map_err(|_| refused(Refusal::Unreadable))?;
        let unreadable = |_| refused(Refusal::Unreadable);
        let constraints = leaf.basic_constraints().map_err(unreadable)?;
        let usage = leaf.key_usage().map_err(unreadable)?;
        let may_sign = usage.as_ref().is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign());
        if may_sign || constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(refused(Refusal::Authority));
        }
        // Without the extension nothing is restricted, for us as for webpki and RFC 5280, 4.2.1.3.
        if usage.is_some_and(|usage| !usage.value.digital_signature()) {
            return Err(refused(Refusal::Usage));
        }
        let names = leaf.subject_alternative_name().map_err(unreadable)?;
        let names = names.as_ref().map_or(&[][..], |names| &names.value.general_names);
        let mut uris = names.iter().filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None });
        let (Some(uri), None) = (uris.next(), uris.next()) else {
            let count = names.iter().filter(|name| matches!(name, GeneralName::URI(_))).count();
            return Err(refused(Refusal::Names(count)));
        };
        let identity = Some(uri).filter(|uri| uri.len() <= LONGEST_URI);
        let identity = identity.and_then(|uri| Identity::of_spiffe(uri, &self.domain)).filter(is_name);
        identity.ok_or_else(|| {
            let shown = uri.get(..uri.floor_char_boundary(256)).unwrap_or_default();
            refused(Refusal::OtherDomain(shown.escape_debug().to_string(), self.domain.clone()))
        })
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        usage: KeyUsage,
        now: UnixTime,
    ) -> Result<Identity, Error> {
        if self.roots.is_empty() {
            return Err(refused(Refusal::NoAuthority));
        }
        let parsed = EndEntityCert::try_from(leaf).map_err(|fault| explain(&fault))?;
        let verify = |time| {
            let chain = parsed.verify_for_usage(self.algorithms.all, &self.roots.roots, issuers, time, usage, None, None);
            chain.map(drop)
        };
        let verified = match verify(now) {
            Err(webpki::Error::CertNotValidYet { .. }) => {
                verify(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()) + CLOCKS))
            }
            verified => verified,
        };
        verified.map_err(|fault| explain(&fault))?;
        self.identify(leaf)
    }

    /// Whether the other side has the key of what it has shown.
    fn has_key(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }
}

/// What the traits ask for besides. The mesh speaks TLS 1.3 only, so it would take a wrong configuration of ours to get here.
fn of_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("the mesh speaks TLS 1.3 only, and this is a signature of TLS 1.2".to_owned()))
}

/// SPIFFE's paths have no escapes and no dot segments; the names of Kubernetes have less.
fn is_name(identity: &Identity) -> bool {
    let is_taken = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    [&identity.namespace, &identity.account].iter().all(|name| name.bytes().all(is_taken) && !matches!(name.as_str(), "." | ".."))
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("domain", &self.domain).field("roots", &self.roots.len()).finish_non_exhaustive()
    }
}

/// Servers that have to be this workload.
#[derive(Debug)]
pub(super) struct OfServer {
    verifier: Arc<Verifier>,
    expected: Identity,
}

impl OfServer {
    pub(super) fn new(verifier: Arc<Verifier>, expected: Identity) -> Self {
        Self { verifier, expected }
    }
}

impl ServerCertVerifier for OfServer {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let identity = self.verifier.judge(leaf, issuers, KeyUsage::server_auth(), now)?;
        if identity != self.expected {
            return Err(refused(Refusal::OtherIdentity(identity, self.expected.clone())));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        of_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.has_key(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.algorithms.supported_schemes()
    }
}

/// Clients that may be any workload.
#[derive(Debug)]
pub(super) struct OfClient {
    verifier: Arc<Verifier>,
    hints: Vec<DistinguishedName>,
}

impl OfClient {
    pub(super) fn new(verifier: Arc<Verifier>) -> Self {
        Self { hints: verifier.roots.subjects(), verifier }
    }
}

impl ClientCertVerifier for OfClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verifier.judge(leaf, issuers, KeyUsage::client_auth(), now).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _leaf: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        of_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.has_key(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.algorithms.supported_schemes()
    }
}

/// What a failed check says to whoever reads logs.
pub(crate) fn reason(error: &Error) -> String {
    use CertificateError as E;
    match error {
        Error::InvalidCertificate(E::UnknownIssuer) => "no authority of the mesh has signed it".to_owned(),
        Error::InvalidCertificate(E::Expired) => "it has expired".to_owned(),
        Error::InvalidCertificate(E::NotValidYet) => "it is not valid yet".to_owned(),
        Error::InvalidCertificate(E::Other(OtherError(refusal))) => refusal.to_string(),
        other => other.to_string(),
    }
}

/// As rustls tells the other side by an alert, and others by a metric.
fn explain(fault: &webpki::Error) -> Error {
    use webpki::Error as W;
    Error::InvalidCertificate(match fault {
        W::CertExpired { .. } => CertificateError::Expired,
        W::CertNotValidYet { .. } => CertificateError::NotValidYet,
        // The second: by one of an authority's name, but with another key, as an authority has after it was made anew.
        W::UnknownIssuer | W::InvalidSignatureForPublicKey => CertificateError::UnknownIssuer,
        W::CaUsedAsEndEntity => return refused(Refusal::Authority),
        W::BadDer | W::BadDerTime => CertificateError::BadEncoding,
        other => return refused(Refusal::Chain(other.clone())),
    })
}

fn refused(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}
