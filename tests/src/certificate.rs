//! Certificates that are made for a case, good ones and odd ones.

use isthmus_api::NamespacedName;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde::Deserialize;
use serde_json::{Value, json};

/// How many certificates a long chain has.
const LONG: usize = 20;

/// A certificate that a case asks for.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Wanted {
    /// A good one with these names.
    Good(Vec<String>),
    /// An odd one.
    Odd {
        /// The names in it.
        hosts: Vec<String>,
        /// What is odd about it.
        odd: Odd,
    },
}

/// What is odd about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Odd {
    /// It ended in 2021.
    Expired,
    /// Its chain has 20 certificates.
    Long,
    /// Its issuer comes before it.
    IssuerFirst,
    /// The key is another's.
    OtherKey,
}

impl Wanted {
    /// The Secret that holds it.
    ///
    /// # Panics
    /// When a name cannot be in a certificate.
    pub fn secret(&self, name: &NamespacedName) -> Value {
        let (chain, key) = match self {
            Self::Good(hosts) => make(hosts, None),
            Self::Odd { hosts, odd } => make(hosts, Some(*odd)),
        };
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name.name, "namespace": name.namespace},
            "type": "kubernetes.io/tls",
            "stringData": {"tls.crt": chain, "tls.key": key},
        })
    }
}

fn make(hosts: &[String], odd: Option<Odd>) -> (String, String) {
    let mut leaf = CertificateParams::new(hosts.to_vec()).expect("the names of a case are DNS names");
    let key = new_key();
    if odd == Some(Odd::Expired) {
        (leaf.not_before, leaf.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    }
    let authorities = match odd {
        Some(Odd::Long) => LONG - 1,
        Some(Odd::IssuerFirst) => 1,
        _ => 0,
    };
    let mut chain = Vec::new();
    let mut issuer: Option<Issuer<'_, KeyPair>> = None;
    for number in 0..authorities {
        let (params, key) = (authority(number), new_key());
        chain.insert(0, sign(&params, &key, issuer.as_ref()));
        issuer = Some(Issuer::new(params, key));
    }
    chain.insert(if odd == Some(Odd::IssuerFirst) { 1 } else { 0 }, sign(&leaf, &key, issuer.as_ref()));
    let key = if odd == Some(Odd::OtherKey) { new_key() } else { key };
    (chain.concat(), key.serialize_pem())
}

fn new_key() -> KeyPair {
    KeyPair::generate().expect("a key")
}

fn authority(number: usize) -> CertificateParams {
    let mut params = CertificateParams::new([format!("ca-{number}.example.com")]).expect("a DNS name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn sign(params: &CertificateParams, key: &KeyPair, issuer: Option<&Issuer<'_, KeyPair>>) -> String {
    let signed = match issuer {
        Some(issuer) => params.signed_by(key, issuer),
        None => params.self_signed(key),
    };
    signed.expect("a certificate").pem()
}
