//! The certificate authority of one run: it signs what echo servers show, and stands in for the ConfigMaps of BackendTLSPolicies that
//! nobody wrote, so that TLS towards backends can be tried without making certificates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use isthmus_api::{ConfigMap, NamespacedName, Object, ObjectMeta, Objects};
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType};

use crate::message::Message;

/// An authority that lives as long as the process.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What certificates for a server name have to be valid for besides: `subjectAltNames` of policies.
    names: Mutex<BTreeMap<String, Vec<SanType>>>,
}

impl Authority {
    /// With a new key.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new() -> Result<Self, rcgen::Error> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "isthmus run");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self { issuer: CertifiedIssuer::self_signed(parameters, KeyPair::generate()?)?, names: Mutex::default() })
    }

    /// A certificate for a server of this name.
    ///
    /// # Errors
    /// When the name can stand in no certificate.
    pub fn sign(&self, server_name: &str, common_name: &str, key: &KeyPair) -> Result<Certificate, rcgen::Error> {
        let mut parameters = CertificateParams::new([server_name.to_owned()])?;
        parameters.distinguished_name.push(DnType::CommonName, common_name);
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        parameters.subject_alt_names.extend(names.get(server_name).into_iter().flatten().cloned());
        parameters.signed_by(key, &self.issuer)
    }

    /// A ConfigMap for each one that a BackendTLSPolicy names and nobody has written. Takes note of what the policies ask of certificates.
    pub fn stand_in(&self, objects: &Objects) -> (Vec<Object>, Vec<Message>) {
        let mut wanted = BTreeSet::new();
        let mut names: BTreeMap<String, Vec<SanType>> = BTreeMap::new();
        for (policy, object) in &objects.backend_tls_policies {
            let validation = &object.spec.validation;
            let asked = validation.subject_alt_names.iter().flatten();
            let asked = asked.flat_map(|name| {
                let hostname = name.hostname.as_deref().and_then(|name| name.try_into().ok()).map(SanType::DnsName);
                let uri = name.uri.as_deref().and_then(|uri| uri.try_into().ok()).map(SanType::URI);
                hostname.into_iter().chain(uri)
            });
            names.entry(validation.hostname.clone()).or_default().extend(asked);
            let references = validation.ca_certificate_refs.iter().flatten();
            let config_maps = references.filter(|reference| reference.group.is_empty() && reference.kind == "ConfigMap");
            wanted.extend(config_maps.map(|reference| NamespacedName::new(policy.namespace.clone(), reference.name.clone())));
        }
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        let missing = wanted.into_iter().filter(|name| !objects.config_maps.contains_key(name));
        missing
            .map(|name| {
                let text =
                    format!("ConfigMap/{name} is missing: the authority of this run stands in, which echoes are signed by");
                (self.config_map(&name), Message::notice(None, text))
            })
            .unzip()
    }

    /// Its own certificate.
    #[cfg(test)]
    pub(crate) fn certificate(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.issuer.as_ref().der().clone()
    }

    fn config_map(&self, name: &NamespacedName) -> Object {
        Object::ConfigMap(Arc::new(ConfigMap {
            metadata: ObjectMeta {
                name: Some(name.name.clone()),
                namespace: Some(name.namespace.clone()),
                ..ObjectMeta::default()
            },
            data: Some(BTreeMap::from([("ca.crt".to_owned(), self.issuer.as_ref().pem())])),
            ..ConfigMap::default()
        }))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::json;

    use super::*;

    #[test]
    fn missing_bundles_are_made_and_what_is_written_is_not() {
        let mut objects = Objects::default();
        let reference = |kind: &str, name: &str| json!({"group": "", "kind": kind, "name": name});
        for object in [
            json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy", "metadata": {"name": "p", "namespace": "x"},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "a"}], "validation": {
                    "hostname": "a.example",
                    "caCertificateRefs": [reference("ConfigMap", "there"), reference("ConfigMap", "gone"), reference("Secret", "s")],
                    "subjectAltNames": [{"type": "URI", "uri": "spiffe://a/b"}, {"type": "Hostname", "hostname": "b.example"}]}}}),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "there", "namespace": "x"}}),
        ] {
            objects.apply(decode(object).unwrap());
        }
        let authority = Authority::new().unwrap();
        let (made, messages) = authority.stand_in(&objects);
        let names: Vec<_> = made.iter().map(|object| object.object_ref().to_string()).collect();
        assert_eq!(names, ["ConfigMap/x/gone"]);
        let text = "ConfigMap/x/gone is missing: the authority of this run stands in, which echoes are signed by";
        assert_eq!(messages.iter().map(ToString::to_string).collect::<Vec<_>>(), [text]);
        assert_eq!(authority.stand_in(&objects).0, made, "the same authority as long as the process lives");

        let key = KeyPair::generate().unwrap();
        let has =
            |certificate: &Certificate, text: &str| certificate.der().windows(text.len()).any(|part| part == text.as_bytes());
        let certificate = authority.sign("a.example", "a", &key).unwrap();
        assert!(["a.example", "b.example", "spiffe://a/b"].iter().all(|name| has(&certificate, name)));
        let other = authority.sign("other.example", "a", &key).unwrap();
        assert!(has(&other, "other.example") && !has(&other, "b.example"), "no policy asks that of it");
    }
}
