//! Certificates of clients: who may have signed one, what becomes of a connection without a valid one, and whose it is.

use std::fmt::Write as _;
use std::sync::Arc;

use isthmus_routing::Bundle;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ServerConnection, WebPkiClientVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, HandshakeKind, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Names of authorities that fit into a handshake whatever the client is. With more, none are named: clients then show what they have.
const MOST_HINTS: usize = 16 * 1024;

/// The longest name of a client that is told, in bytes; a certificate may have thousands.
const LONGEST_NAME: usize = 512;

/// The clients of a listener: all of them are asked for a certificate.
#[derive(Debug)]
pub(crate) struct Clients {
    /// None: there is no authority, so no certificate is valid.
    valid: Option<Arc<dyn ClientCertVerifier>>,
    hints: Vec<DistinguishedName>,
    /// > AllowInsecureFallback: In this mode, the gateway will accept connections
    /// > even if the client certificate is not presented or fails verification.
    optional: bool,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Why a client's certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There was none.
    Absent,
    /// No authority of the listener has signed it.
    UnknownAuthority,
    /// Its time is over.
    Expired,
    /// Its time has not come.
    NotYetValid,
    /// Not meant for clients, broken.
    Invalid,
}

impl Refusal {
    /// What a failed handshake failed of; none: of something else.
    pub(crate) fn of(error: &Error) -> Option<Self> {
        match error {
            Error::NoCertificatesPresented => Some(Self::Absent),
            Error::InvalidCertificate(CertificateError::UnknownIssuer) => Some(Self::UnknownAuthority),
            Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => Some(Self::Expired),
            Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
                Some(Self::NotYetValid)
            }
            // A server meets no other certificate than a client's.
            Error::InvalidCertificate(_) => Some(Self::Invalid),
            _ => None,
        }
    }
}

/// The certificates of a bundle in its order. What is not PEM is passed over: fewer certificates are valid then, and never more.
pub(crate) fn certificates_of(bundle: &Bundle) -> impl Iterator<Item = CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(bundle.certificates.as_bytes()).filter_map(|der| {
        der.inspect_err(|fault| tracing::warn!("a bundle of authorities is not PEM at some place, which is left out: {fault}"))
            .ok()
    })
}

impl Clients {
    /// Takes certificates that one of these authorities has signed. A certificate of an authority that cannot be read is passed over.
    pub(super) fn new(authorities: &[Arc<Bundle>], optional: bool) -> Self {
        let mut roots = RootCertStore::empty();
        for bundle in authorities {
            roots.add_parsable_certificates(certificates_of(bundle));
        }
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let mut hints = roots.subjects();
        if hints.iter().map(|name| name.as_ref().len() + 2).sum::<usize>() > MOST_HINTS {
            hints.clear();
        }
        // It fails without authorities, and for nothing else here.
        let valid = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().ok();
        Self { valid, hints, optional, algorithms }
    }

    /// Whether some client can get through.
    pub(super) fn are_possible(&self) -> bool {
        self.optional || self.valid.is_some()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        match &self.valid {
            Some(valid) => valid.verify_client_cert(leaf, issuers, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        }
    }

    /// Whose valid certificate the client of a connection has shown: alternative names, then the subject. None: it has shown none that
    /// is valid, and is served all the same.
    ///
    /// # Errors
    /// When a certificate has to be valid and is not any more: a session that is resumed has the certificate of its first handshake.
    pub(crate) fn identify(&self, connection: &ServerConnection) -> Result<Option<Box<str>>, Error> {
        let shown = connection.peer_certificates().and_then(<[_]>::split_first);
        let Some((leaf, issuers)) = shown else {
            return if self.optional { Ok(None) } else { Err(Error::NoCertificatesPresented) };
        };
        let was_judged = !self.optional && connection.handshake_kind() != Some(HandshakeKind::Resumed);
        if !was_judged && let Err(error) = self.judge(leaf, issuers, UnixTime::now()) {
            return if self.optional { Ok(None) } else { Err(error) };
        }
        Ok(Some(name_of(leaf)))
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        !self.optional
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        issuers: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        // Judged after the handshake, which does not end for it.
        if self.optional { Ok(ClientCertVerified::assertion()) } else { self.judge(leaf, issuers, now) }
    }

    // Whatever the certificate is worth, its key must be the client's: a session keeps the certificate, and is judged by it later.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// `URI:spiffe://a/b, DNS:a.test, CN=a, O=b`.
fn name_of(leaf: &CertificateDer<'_>) -> Box<str> {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return "a certificate that cannot be shown".into() };
    let mut text = String::new();
    let names = leaf.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        let (kind, name) = match name {
            GeneralName::URI(name) => ("URI", name),
            GeneralName::DNSName(name) => ("DNS", name),
            GeneralName::RFC822Name(name) => ("email", name),
            _ => continue,
        };
        // Into a text: it cannot fail.
        let _ = write!(text, "{kind}:{name}, ");
        if text.len() > LONGEST_NAME {
            break;
        }
    }
    text += &leaf.subject().to_string();
    let mut text = text.trim_end_matches(", ").to_owned();
    if text.len() > LONGEST_NAME {
        text.truncate(text.floor_char_boundary(LONGEST_NAME));
        text += "...";
    }
    text.into()
}
