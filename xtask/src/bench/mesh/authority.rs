//! Who signs the certificates of workloads, and what these are called.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::fault::Fault;

/// How old a certificate is when it is made, and how long it is good for.
const LIFE: (Duration, Duration) = (Duration::from_secs(600), Duration::from_secs(24 * 3600));

/// A ServiceAccount.
#[derive(Debug, Clone)]
pub(in crate::bench) struct Identity {
    pub(in crate::bench) namespace: String,
    pub(in crate::bench) account: String,
}

impl Identity {
    /// Of the Service of this number in the cluster of `bench_controller`, and of its pods.
    pub(in crate::bench) fn of_service(number: u32) -> Self {
        Self { namespace: format!("team-{}", number % 50), account: format!("service-{number}") }
    }

    /// Of somebody who is called by nobody.
    pub(in crate::bench) fn of_client() -> Self {
        Self { namespace: "clients".to_owned(), account: "client".to_owned() }
    }

    pub(in crate::bench) fn spiffe(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.account)
    }

    pub(in crate::bench) fn dns_name(&self) -> String {
        format!("{}.{}.sa.cluster.local", self.account, self.namespace)
    }
}

/// The authority of a mesh.
#[derive(Debug)]
pub(in crate::bench) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// PEM.
    pub(in crate::bench) key: String,
}

/// A workload's certificate.
#[derive(Debug)]
pub(in crate::bench) struct Leaf {
    pub(in crate::bench) certificate: rcgen::Certificate,
    pub(in crate::bench) key: KeyPair,
}

impl Authority {
    pub(in crate::bench) fn new() -> Result<Self, Fault> {
        let make = || {
            let mut params = CertificateParams::default();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let key = KeyPair::generate()?;
            let pem = key.serialize_pem();
            Ok(Self { issuer: CertifiedIssuer::self_signed(params, key)?, key: pem })
        };
        make().map_err(|error| fault(&error))
    }

    /// PEM.
    pub(in crate::bench) fn certificate(&self) -> String {
        self.issuer.pem()
    }

    pub(in crate::bench) fn der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// As the controller does it.
    pub(in crate::bench) fn issue(&self, identity: &Identity) -> Result<Leaf, Fault> {
        let make = || {
            let mut params = CertificateParams::new(vec![identity.dns_name()])?;
            params.subject_alt_names.push(SanType::URI(identity.spiffe().try_into()?));
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            let (age, left) = LIFE;
            let now = SystemTime::now();
            params.not_before = (now - age).into();
            params.not_after = (now + left).into();
            let key = KeyPair::generate()?;
            Ok(Leaf { certificate: params.signed_by(&key, &self.issuer)?, key })
        };
        make().map_err(|error| fault(&error))
    }
}

fn fault(error: &rcgen::Error) -> Fault {
    Fault::said(format!("making a certificate: {error}"))
}
