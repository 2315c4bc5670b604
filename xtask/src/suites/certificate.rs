//! A certificate authority for one run, the Secrets it fills, and a client that trusts nothing else.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::Resumption;
use rustls::{ClientConfig, RootCertStore};

use crate::fault::Fault;

/// Issues certificates that hold for this run.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

/// A certificate in the two forms that are wanted.
#[derive(Debug)]
pub(crate) struct Issued {
    /// A Secret of type `kubernetes.io/tls`, as YAML.
    pub(crate) secret: String,
    /// What a client is shown.
    pub(crate) der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new() -> Result<Self, Fault> {
        let mut params = CertificateParams::new(Vec::new()).map_err(fault)?;
        // Issuer and subject of a leaf must differ, or OpenSSL takes it for self-signed.
        params.distinguished_name.push(DnType::CommonName, "the authority of one run");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().map_err(fault)?;
        let certificate = params.self_signed(&key).map_err(fault)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// A new certificate for `names` in the Secret `default/<secret>`.
    pub(crate) fn issue(&self, secret: &str, names: &[&str]) -> Result<Issued, Fault> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().map_err(fault)?;
        let leaf = CertificateParams::new(names).map_err(fault)?.signed_by(&key, &self.issuer).map_err(fault)?;
        let (chain, key) = (BASE64_STANDARD.encode(leaf.pem()), BASE64_STANDARD.encode(key.serialize_pem()));
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata:\n  name: {secret}\ntype: kubernetes.io/tls\ndata:\n  tls.crt: {chain}\n  tls.key: {key}\n"
        );
        Ok(Issued { secret, der: leaf.der().to_vec() })
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

fn fault(source: impl std::fmt::Display) -> Fault {
    Fault::said(format!("making a certificate: {source}"))
}
