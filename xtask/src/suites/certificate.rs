//! A certificate authority for one run, the Secrets it fills, and a client that trusts nothing else.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use crate::fault::Fault;

/// Issues certificates that hold for this run.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate in the forms that are wanted.
#[derive(Debug)]
pub(crate) struct Issued {
    /// A Secret of type `kubernetes.io/tls`, as YAML.
    pub(crate) secret: String,
    /// What a client is shown.
    pub(crate) der: Vec<u8>,
    /// The same in PEM.
    pub(crate) chain: String,
    /// Its key in PEM.
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Fault> {
        Self::named("the authority of one run")
    }

    pub(crate) fn named(name: &str) -> Result<Self, Fault> {
        let mut params = CertificateParams::new(Vec::new()).map_err(fault)?;
        // Issuer and subject of a leaf must differ, or OpenSSL takes it for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fault)?;
        let certificate = params.self_signed(&key).map_err(fault)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// A new certificate for `names` in the Secret `default/<secret>`.
    pub(crate) fn issue(&self, secret: &str, names: &[&str]) -> Result<Issued, Fault> {
        self.issue_with(secret, names, &KeyPair::generate().map_err(fault)?, |_| {})
    }

    /// The same for a key, and not quite like the others.
    pub(crate) fn issue_with(
        &self,
        secret: &str,
        names: &[&str],
        key: &KeyPair,
        edit: impl FnOnce(&mut CertificateParams),
    ) -> Result<Issued, Fault> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(fault)?;
        params.use_authority_key_identifier_extension = true;
        edit(&mut params);
        let leaf = params.signed_by(key, &self.issuer).map_err(fault)?;
        let (chain, key) = (leaf.pem(), key.serialize_pem());
        Ok(Issued { secret: self::secret(secret, &chain, &key), der: leaf.der().to_vec(), chain, key })
    }

    /// For `curl --cacert` and the like.
    pub(crate) fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Trusts this authority only.
    pub(crate) fn client(&self) -> Result<Arc<ClientConfig>, Fault> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).map_err(fault)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(fault)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        // A resumed session would show the certificate of the first one.
        config.resumption = Resumption::disabled();
        Ok(Arc::new(config))
    }
}

/// A Secret in the namespace `default`, of a chain and a key in PEM.
pub(crate) fn secret(name: &str, chain: &str, key: &str) -> String {
    let (chain, key) = (BASE64_STANDARD.encode(chain), BASE64_STANDARD.encode(key));
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {name}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {chain}\n  tls.key: {key}\n"
    )
}

fn fault(source: impl std::fmt::Display) -> Fault {
    Fault::said(format!("making a certificate: {source}"))
}
