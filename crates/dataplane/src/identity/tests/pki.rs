//! Authorities of a mesh and what they sign.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use isthmus_routing::{Certificate, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Of the namespace `shop`.
pub(crate) fn identity(account: &str) -> Identity {
    Identity { namespace: "shop".to_owned(), account: account.to_owned() }
}

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub(crate) pem: String,
    /// What has to be shown after a leaf.
    intermediate: String,
}

/// What a certificate says.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) uris: Vec<String>,
    pub(crate) names: Vec<String>,
    /// Seconds from now.
    pub(crate) valid: (i64, i64),
    pub(crate) is_authority: bool,
    pub(crate) usages: Vec<KeyUsagePurpose>,
    pub(crate) purposes: Vec<ExtendedKeyUsagePurpose>,
}

impl Leaf {
    /// As the controller signs it for an account of `shop`.
    pub(crate) fn of(account: &str) -> Self {
        Self {
            uris: vec![format!("spiffe://cluster.local/ns/shop/sa/{account}")],
            names: vec![format!("{account}.shop.sa.cluster.local")],
            valid: (-600, 3600),
            is_authority: false,
            usages: vec![KeyUsagePurpose::DigitalSignature],
            purposes: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        }
    }

    pub(crate) fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }
}

/// A certificate that was seen on the wire, with a key of whoever shows it.
pub(crate) fn stolen(certificate: Certificate) -> Certificate {
    Certificate { key: KeyPair::generate().expect("a key").serialize_pem(), ..certificate }
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// Name constraints, which rcgen has none of for URIs.
fn permitted_uris(host: &str) -> CustomExtension {
    let within = |tag: u8, content: &[u8]| [&[tag, u8::try_from(content.len()).expect("it is short")], content].concat();
    let base = within(0x86, host.as_bytes());
    let content = within(0x30, &within(0xa0, &within(0x30, &base)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name);
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem, intermediate: String::new() }
    }

    /// One that this one has signed, and that nobody has among his roots.
    pub(crate) fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let params = authority(name);
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Self { issuer: Issuer::new(params, key), pem: self.pem.clone(), intermediate: signed.pem() }
    }

    /// The same, which by its name constraints may sign for no other URIs than those of this host.
    pub(crate) fn below_for(&self, host: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = authority("constrained");
        params.custom_extensions = vec![permitted_uris(host)];
        let signed = params.signed_by(&key, &self.issuer).expect("signed");
        Self { issuer: Issuer::new(params, key), pem: self.pem.clone(), intermediate: signed.pem() }
    }

    pub(crate) fn sign(&self, leaf: &Leaf) -> Certificate {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        let uris = leaf.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().expect("ASCII")));
        let names = leaf.names.iter().map(|name| SanType::DnsName(name.as_str().try_into().expect("ASCII")));
        params.subject_alt_names = uris.chain(names).collect();
        let at = |seconds: i64| {
            let (now, by) = (SystemTime::now(), Duration::from_secs(seconds.unsigned_abs()));
            if seconds < 0 { now - by } else { now + by }
        };
        (params.not_before, params.not_after) = (at(leaf.valid.0).into(), at(leaf.valid.1).into());
        params.is_ca = if leaf.is_authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        params.key_usages.clone_from(&leaf.usages);
        params.extended_key_usages.clone_from(&leaf.purposes);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Certificate { chain: certificate.pem() + &self.intermediate, key: key.serialize_pem() }
    }
}

/// As rustls shows it, on either side; that the key is another one's is no matter.
pub(crate) fn shown(certificate: &Certificate) -> Arc<SingleCertAndKey> {
    let (chain, key) = pair(certificate);
    let key = any_supported_type(&key).expect("a key of ring's");
    Arc::new(CertifiedKey::new(chain, key).into())
}

/// As rustls takes it.
pub(crate) fn pair(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(|der| der.expect("PEM")).collect();
    (chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key"))
}
