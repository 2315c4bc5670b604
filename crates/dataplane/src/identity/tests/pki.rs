//! Authorities of a mesh and what they sign.

use std::time::{Duration, SystemTime};

use isthmus_routing::{Certificate, Identity};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
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

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    params
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

/// As rustls takes it.
pub(crate) fn pair(certificate: &Certificate) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
    let chain = CertificateDer::pem_slice_iter(certificate.chain.as_bytes()).map(|der| der.expect("PEM")).collect();
    (chain, PrivateKeyDer::from_pem_slice(certificate.key.as_bytes()).expect("a key"))
}
