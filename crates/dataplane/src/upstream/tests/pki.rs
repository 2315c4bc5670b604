//! Authorities and what they sign.

use std::sync::Arc;
use std::time::SystemTime;

use isthmus_routing::{Bundle, BundleKey, Certificate, Gateway, Snapshot};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use rustls::ServerConfig;
use rustls_pki_types::PrivateKeyDer;

use crate::upstream::ClientCertificate;

pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(super) pem: String,
}

/// What a server's certificate says: DNS names, and URIs after `URI:`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'a> {
    names: &'a [&'a str],
    years: (i32, i32),
}

impl<'a> Leaf<'a> {
    pub(super) const fn of(names: &'a [&'a str]) -> Self {
        Self { names, years: (2000, 2999) }
    }

    pub(super) const fn expired(mut self) -> Self {
        self.years = (2000, 2001);
        self
    }

    pub(super) const fn not_yet(mut self) -> Self {
        self.years = (2998, 2999);
        self
    }
}

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub(super) fn bundle(&self) -> Arc<Bundle> {
        Arc::new(Bundle { certificates: self.pem.clone() })
    }

    /// What a server shows that asks for no certificate.
    pub(super) fn server(&self, leaf: &Leaf<'_>) -> ServerConfig {
        let (chain, key) = self.sign(leaf);
        builder().with_no_client_auth().with_single_cert(chain, key).expect("they fit")
    }

    /// The same of one that insists on a certificate of `clients`.
    pub(super) fn server_for(&self, leaf: &Leaf<'_>, clients: &Self) -> ServerConfig {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build().expect("roots");
        let (chain, key) = self.sign(leaf);
        builder().with_client_cert_verifier(verifier).with_single_cert(chain, key).expect("they fit")
    }

    /// The same of one whose certificate is valid until then.
    pub(super) fn server_until(&self, leaf: &Leaf<'_>, end: SystemTime) -> ServerConfig {
        let (chain, key) = self.sign_until(leaf, Some(end));
        builder().with_no_client_auth().with_single_cert(chain, key).expect("they fit")
    }

    fn sign(&self, leaf: &Leaf<'_>) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        self.sign_until(leaf, None)
    }

    fn sign_until(
        &self,
        leaf: &Leaf<'_>,
        end: Option<SystemTime>,
    ) -> (Vec<rustls_pki_types::CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let name = |name: &&str| match name.strip_prefix("URI:") {
            Some(uri) => SanType::URI(uri.try_into().expect("ASCII")),
            None => SanType::DnsName((*name).try_into().expect("ASCII")),
        };
        params.subject_alt_names = leaf.names.iter().map(name).collect();
        let (from, to) = leaf.years;
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1));
        if let Some(end) = end {
            params.not_after = end.into();
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

fn builder() -> rustls::ConfigBuilder<ServerConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("both versions")
}

pub(super) fn bundle_key(name: &str) -> BundleKey {
    format!("ConfigMap/a/{name}").parse().expect("a key")
}

/// A client's certificate with this common name and serial number.
pub(super) fn pair(authority: &Authority, name: &str, serial: u64) -> Certificate {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(serial.into());
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &authority.issuer).expect("signed");
    Certificate { chain: certificate.pem(), key: key.serialize_pem() }
}

pub(super) fn client_certificate(authority: &Authority, name: &str, serial: u64) -> Arc<ClientCertificate> {
    let key: isthmus_routing::CertificateKey = "Secret/a/client".parse().expect("a key");
    let gateway = Gateway { client_certificate: Some(key.clone()), ..Gateway::default() };
    let certificates = [(key, Arc::new(pair(authority, name, serial)))].into();
    ClientCertificate::of(&gateway, &Snapshot { certificates, ..Snapshot::default() }, None).expect("it is right")
}
