//! Certificates that are made for a case: good ones and odd ones, signed by themselves or by authorities that are made for it too.

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::NamespacedName;
use isthmus_routing::{Identity, TrustDomain};
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    SanType, date_time_ymd,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use serde_json::{Value, json};

/// How many certificates a long chain has.
const LONG: usize = 20;

/// A certificate that a case asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Wanted {
    /// A good one with these names, signed by itself.
    Good(Vec<String>),
    /// Any other.
    Other(Other),
}

/// A certificate, in full.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Other {
    /// DNS names and IP addresses in it.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// URIs in it.
    #[serde(default)]
    pub uris: Vec<String>,
    /// The authority that signs it; none: itself.
    pub authority: Option<String>,
    /// What its `extendedKeyUsage` permits; none: it has none, which permits everything.
    pub usage: Option<Usage>,
    /// What is odd about it.
    pub odd: Option<Odd>,
}

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Usage {
    /// To show oneself to a server.
    Client,
    /// To show oneself to a client.
    Server,
}

/// What is odd about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Odd {
    /// It ended in 2021.
    Expired,
    /// It begins in 2100.
    NotYet,
    /// Its chain has 20 certificates, itself among them and the authority not.
    Long,
    /// Its issuer comes before it.
    IssuerFirst,
    /// The key is another's.
    OtherKey,
    /// It may sign others.
    Authority,
    /// It is signed by an authority whose own authority permits none below itself.
    PathLength,
}

/// A certificate chain and its key, in PEM.
#[derive(Debug, Clone)]
pub struct Pair {
    /// The chain, as it is shown.
    pub chain: String,
    /// The key.
    pub key: String,
}

/// An authority of a case.
#[derive(Debug)]
pub struct Authority {
    /// Its own certificate, in PEM.
    pub certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// One with this name.
    pub fn new(name: &str) -> Self {
        let (params, key) = (authority(name, BasicConstraints::Unconstrained), new_key());
        let certificate = sign(&params, &key, None);
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    /// The certificate of a workload of the mesh, in PEM, for the key that has signed the request (PKCS #10 in PEM).
    ///
    /// # Errors
    /// What is wrong with the request.
    pub fn workload(&self, identity: &Identity, request: &str) -> Result<String, String> {
        let domain = TrustDomain::default();
        let request = CertificateSigningRequestParams::from_pem(request).map_err(|error| error.to_string())?;
        let names = Other { hosts: vec![identity.dns_name(&domain)], uris: vec![identity.spiffe(&domain)], ..Other::default() };
        let signed = leaf(&names).signed_by(&request.public_key, &self.issuer);
        signed.map(|certificate| certificate.pem()).map_err(|error| error.to_string())
    }
}

impl Wanted {
    /// Makes it.
    ///
    /// # Errors
    /// Names the authority that the case does not have.
    ///
    /// # Panics
    /// When a name cannot be in a certificate.
    pub fn make(&self, authorities: &BTreeMap<String, Authority>) -> Result<Pair, String> {
        let other = match self {
            Self::Good(hosts) => &Other { hosts: hosts.clone(), ..Other::default() },
            Self::Other(other) => other,
        };
        let authority = match &other.authority {
            Some(name) => Some(authorities.get(name).ok_or_else(|| format!("there is no authority `{name}`"))?),
            None => None,
        };
        Ok(make(other, authority.map(|authority| &authority.issuer)))
    }
}

impl Pair {
    /// The Secret that holds it.
    pub fn secret(&self, name: &NamespacedName) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": self.chain, "tls.key": self.key},
        })
    }

    /// What rustls wants of it.
    ///
    /// # Panics
    /// When it is no PEM, which rcgen would not make.
    pub fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (certificates(&self.chain), PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("rcgen makes PEM"))
    }
}

/// The certificates in PEM.
///
/// # Panics
/// When there is something else in it.
pub fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().expect("rcgen makes PEM")
}

/// A verifier's authorities.
///
/// # Panics
/// When rustls takes none of them.
pub fn roots(pem: &str) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates(pem) {
        roots.add(certificate).expect("rcgen makes authorities");
    }
    Arc::new(roots)
}

fn make(wanted: &Other, authority: Option<&Issuer<'static, KeyPair>>) -> Pair {
    let (leaf, key) = (leaf(wanted), new_key());
    let unlimited = BasicConstraints::Unconstrained;
    let above = match wanted.odd {
        Some(Odd::Long) => vec![unlimited; LONG - 1],
        Some(Odd::IssuerFirst) => vec![unlimited],
        Some(Odd::PathLength) => vec![BasicConstraints::Constrained(0), unlimited],
        _ => Vec::new(),
    };
    let mut chain = Vec::new();
    let mut issuer: Option<Issuer<'_, KeyPair>> = None;
    for (number, constraints) in above.into_iter().enumerate() {
        let (params, key) = (self::authority(&format!("intermediate {number}"), constraints), new_key());
        chain.insert(0, sign(&params, &key, issuer.as_ref().or(authority)));
        issuer = Some(Issuer::new(params, key));
    }
    chain.insert(usize::from(wanted.odd == Some(Odd::IssuerFirst)), sign(&leaf, &key, issuer.as_ref().or(authority)));
    let key = if wanted.odd == Some(Odd::OtherKey) { new_key() } else { key };
    Pair { chain: chain.concat(), key: key.serialize_pem() }
}

fn leaf(wanted: &Other) -> CertificateParams {
    let mut leaf = CertificateParams::new(wanted.hosts.clone()).expect("the hosts of a case are DNS names or IP addresses");
    let uri = |uri: &String| SanType::URI(Ia5String::try_from(uri.as_str()).expect("the URIs of a case are ASCII"));
    leaf.subject_alt_names.extend(wanted.uris.iter().map(uri));
    match wanted.odd {
        Some(Odd::Expired) => (leaf.not_before, leaf.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1)),
        Some(Odd::NotYet) => leaf.not_before = date_time_ymd(2100, 1, 1),
        Some(Odd::Authority) => leaf.is_ca = IsCa::Ca(BasicConstraints::Unconstrained),
        _ => {}
    }
    leaf.extended_key_usages = match wanted.usage {
        Some(Usage::Client) => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Some(Usage::Server) => vec![ExtendedKeyUsagePurpose::ServerAuth],
        None => Vec::new(),
    };
    leaf
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(name: &str, constraints: BasicConstraints) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(constraints);
    params
}

fn sign(params: &CertificateParams, key: &KeyPair, issuer: Option<&Issuer<'_, KeyPair>>) -> String {
    let signed = match issuer {
        Some(issuer) => params.signed_by(key, issuer),
        None => params.self_signed(key),
    };
    signed.expect("a certificate").pem()
}
