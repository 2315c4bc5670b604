//! What is taken of a request for a certificate: the key, if who asks has it. Whose it is, the token has said.

use rcgen::SubjectPublicKeyInfo;
use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA,
    OID_SIG_ED25519,
};
use x509_parser::prelude::FromDer;

/// Requests with the largest keys that are taken are around 2 KiB.
const LONGEST: usize = 16 << 10;

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRequest {
    #[error("the request for a certificate cannot be read: {0}")]
    Unreadable(String),
    #[error("the request's key is none of ECDSA P-256, ECDSA P-384, Ed25519 and RSA of at least 2048 bits")]
    Key,
    #[error("the request's signature is not by its key, or by an algorithm that proves nothing")]
    Signature,
}

/// The key of a request in PEM, which has signed it. Names and extensions that it asks for are passed over.
pub(super) fn public_key(csr: &str) -> Result<SubjectPublicKeyInfo, BadRequest> {
    let unreadable = |why: &dyn ToString| BadRequest::Unreadable(why.to_string());
    if csr.len() > LONGEST {
        return Err(unreadable(&"it is too long"));
    }
    let der = CertificateSigningRequestDer::from_pem_slice(csr.as_bytes()).map_err(|error| unreadable(&error))?;
    let (rest, request) = X509CertificationRequest::from_der(&der).map_err(|error| unreadable(&error))?;
    if !rest.is_empty() {
        return Err(unreadable(&"something follows it"));
    }
    let key = &request.certification_request_info.subject_pki;
    let curve = || key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let kind = &key.algorithm.algorithm;
    let is_curve =
        *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve().is_some_and(|curve| curve == OID_EC_P256 || curve == OID_NIST_EC_P384);
    // How long an RSA key is, the verification below looks at: none of its algorithms takes less than 2048 bits, but for that of SHA-1.
    if !is_curve && *kind != OID_SIG_ED25519 && *kind != OID_PKCS1_RSAENCRYPTION {
        return Err(BadRequest::Key);
    }
    let is_small = key.parsed().is_ok_and(|parsed| *kind == OID_PKCS1_RSAENCRYPTION && parsed.key_size() < 2048);
    if is_small {
        return Err(BadRequest::Key);
    }
    let by = &request.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(by) || request.verify_signature().is_err() {
        return Err(BadRequest::Signature);
    }
    SubjectPublicKeyInfo::from_der(key.raw).map_err(|_| BadRequest::Key)
}
