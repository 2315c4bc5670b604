//! Self-signed certificates for listeners whose Secret is missing, so that HTTPS can be tried without committing a key.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::core::ByteString;
use isthmus_api::shared::{ListenerView, TlsMode};
use isthmus_api::{Gateway, ListenerSet, NamespacedName, Object, ObjectMeta, Objects, Secret};
use rcgen::{CertificateParams, DnType, KeyPair};

use crate::message::Message;

/// The Secrets that were made, so that an edit elsewhere does not change them.
#[derive(Debug, Default)]
pub struct Certificates {
    made: BTreeMap<NamespacedName, (BTreeSet<String>, Object)>,
}

impl Certificates {
    /// A Secret for each one that a listener names and nobody has written, with what was made and what could not be.
    pub fn make(&mut self, objects: &Objects) -> (Vec<Object>, Vec<Message>) {
        let wanted = wanted(objects);
        self.made.retain(|name, (hostnames, _)| wanted.get(name) == Some(hostnames));
        let (mut secrets, mut messages) = (Vec::new(), Vec::new());
        for (name, hostnames) in wanted {
            let hosts = hostnames.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let secret = match self.made.get(&name) {
                Some((_, secret)) => secret.clone(),
                None => match self_signed(&name, &hostnames) {
                    Ok(secret) => secret,
                    Err(error) => {
                        messages.push(Message::warning(
                            None,
                            format!("Secret/{name}: no certificate can be made for {hosts}: {error}"),
                        ));
                        continue;
                    }
                },
            };
            messages.push(Message::notice(
                None,
                format!("Secret/{name} is missing: a self-signed certificate for {hosts} stands in (curl -k)"),
            ));
            secrets.push(secret.clone());
            self.made.insert(name, (hostnames, secret));
        }
        (secrets, messages)
    }
}

/// The Secrets that are missing, each with the hostnames of its listeners.
fn wanted(objects: &Objects) -> BTreeMap<NamespacedName, BTreeSet<String>> {
    let mut wanted: BTreeMap<NamespacedName, BTreeSet<String>> = BTreeMap::new();
    let of_gateway = |(name, gateway)| {
        let gateway: &Gateway = gateway;
        gateway.spec.listeners.iter().map(move |listener| (name, ListenerView::from(listener)))
    };
    let of_set = |(name, set)| {
        let set: &ListenerSet = set;
        set.spec.listeners.iter().map(move |listener| (name, ListenerView::from(listener)))
    };
    let gateways = objects.gateways.iter().map(|(name, gateway)| (name, &**gateway)).flat_map(of_gateway);
    let sets = objects.listener_sets.iter().map(|(name, set)| (name, &**set)).flat_map(of_set);
    for (owner, listener) in gateways.chain(sets) {
        let Some(tls) = listener.tls.filter(|tls| tls.mode == TlsMode::Terminate) else { continue };
        for reference in tls.certificate_refs.iter().filter(|reference| reference.group.is_empty() && reference.kind == "Secret")
        {
            let namespace = reference.namespace.as_ref().unwrap_or(&owner.namespace);
            let name = NamespacedName::new(namespace.clone(), reference.name.clone());
            if !objects.secrets.contains_key(&name) {
                wanted.entry(name).or_default().insert(listener.hostname.unwrap_or("localhost").to_owned());
            }
        }
    }
    wanted
}

fn self_signed(name: &NamespacedName, hostnames: &BTreeSet<String>) -> Result<Object, rcgen::Error> {
    let mut params = CertificateParams::new(hostnames.iter().cloned().collect::<Vec<_>>())?;
    params.distinguished_name.push(DnType::CommonName, "isthmus run");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let data = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
    Ok(Object::Secret(Arc::new(Secret {
        metadata: ObjectMeta { name: Some(name.name.clone()), namespace: Some(name.namespace.clone()), ..ObjectMeta::default() },
        type_: Some("kubernetes.io/tls".to_owned()),
        data: Some(data.into_iter().map(|(key, pem)| (key.to_owned(), ByteString(pem.into_bytes()))).collect()),
        ..Secret::default()
    })))
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::json;

    use super::*;

    fn objects(hostname: &str, secret: Option<&str>) -> Objects {
        let mut objects = Objects::default();
        let tls = |name: &str| json!({"certificateRefs": [{"name": name}]});
        let listeners = json!([
            {"name": "a", "port": 443, "protocol": "HTTPS", "hostname": hostname, "tls": tls("cert")},
            {"name": "b", "port": 443, "protocol": "HTTPS", "hostname": "*.b.example", "tls": tls("cert")},
            {"name": "c", "port": 443, "protocol": "HTTPS", "tls": tls("other")},
            {"name": "http", "port": 80, "protocol": "HTTP"},
        ]);
        let spec = json!({"gatewayClassName": "x", "listeners": listeners});
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "g", "namespace": "x"}, "spec": spec});
        objects.apply(decode(gateway).unwrap());
        let tls = json!({"certificateRefs": [{"name": "of-set"}]});
        let spec = json!({"parentRef": {"name": "g"}, "listeners": [{"name": "d", "port": 8443, "protocol": "TLS", "hostname": "d.example", "tls": tls}]});
        let set = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "ListenerSet", "metadata": {"name": "s", "namespace": "x"}, "spec": spec});
        objects.apply(decode(set).unwrap());
        if let Some(name) = secret {
            objects.apply(
                decode(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "x"}})).unwrap(),
            );
        }
        objects
    }

    #[test]
    fn missing_secrets_are_made_and_kept() {
        let mut certificates = Certificates::default();
        let (first, messages) = certificates.make(&objects("a.example", None));
        let texts: Vec<_> = messages.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "Secret/x/cert is missing: a self-signed certificate for *.b.example, a.example stands in (curl -k)",
                "Secret/x/of-set is missing: a self-signed certificate for d.example stands in (curl -k)",
                "Secret/x/other is missing: a self-signed certificate for localhost stands in (curl -k)",
            ]
        );
        assert_eq!(certificates.make(&objects("a.example", None)).0, first, "an edit elsewhere does not change them");
        let (second, _) = certificates.make(&objects("c.example", None));
        assert_ne!(second[0], first[0]);
        assert_eq!(second[1..], first[1..]);
        let (third, _) = certificates.make(&objects("c.example", Some("cert")));
        assert_eq!(third, second[1..], "what is written is not made");
    }
}
