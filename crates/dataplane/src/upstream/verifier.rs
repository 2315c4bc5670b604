//! What a backend's certificate has to fulfil: a chain to an authority, validity, a name.

use std::sync::Arc;

use isthmus_routing::SubjectAltName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

/// Verifies as webpki does, and compares the names that a policy asks for.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Arc<RootCertStore>,
    /// Empty: the server name that was asked for.
    ///
    /// > When specified the certificate served from the backend MUST
    /// > have at least one Subject Alternate Name matching one of the specified SubjectAltNames.
    names: Vec<SubjectAltName>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// A check that webpki does not make.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("there is no authority that could have signed it: every bundle of the policy is missing or empty")]
    NoAuthority,
    #[error("its names are {0}, and none of the policy's subjectAltNames is one of them")]
    OtherNames(String),
}

impl Verifier {
    pub(super) fn new(roots: Arc<RootCertStore>, names: Vec<SubjectAltName>, algorithms: WebPkiSupportedAlgorithms) -> Self {
        Self { roots, names, algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.roots.is_empty() {
            return Err(refused(Refusal::NoAuthority));
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        if self.names.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else {
            one_of(leaf, &self.names)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a failed check says to whoever reads logs.
pub(super) fn reason(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer => "none of the policy's authorities has signed it".to_owned(),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".to_owned(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "it is not valid yet".to_owned(),
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not valid for the policy's hostname".to_owned()
        }
        CertificateError::Other(OtherError(refusal)) => refusal.to_string(),
        other => other.to_string(),
    }
}

/// Whether the certificate has one of the names.
fn one_of(leaf: &CertificateDer<'_>, names: &[SubjectAltName]) -> Result<(), Error> {
    let parsed = EndEntityCert::try_from(leaf).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
    let has = |name: &SubjectAltName| match name {
        // The API lets a wildcard stand here without a word on what it means: it is the certificate's own wildcard, and not all names below.
        SubjectAltName::Hostname(wanted) if wanted.is_wildcard() => {
            parsed.valid_dns_names().any(|name| name.eq_ignore_ascii_case(wanted.as_str()))
        }
        SubjectAltName::Hostname(wanted) => {
            ServerName::try_from(wanted.as_str()).is_ok_and(|wanted| parsed.verify_is_valid_for_subject_name(&wanted).is_ok())
        }
        SubjectAltName::Uri(wanted) => parsed.valid_uri_names().any(|name| name == wanted),
    };
    if names.iter().any(has) {
        return Ok(());
    }
    let mut presented: Vec<_> = parsed.valid_dns_names().chain(parsed.valid_uri_names()).take(8).collect();
    if presented.is_empty() {
        presented.push("none");
    }
    Err(refused(Refusal::OtherNames(presented.join(", "))))
}

fn refused(refusal: Refusal) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))
}
