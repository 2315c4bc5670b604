//! `certificateRefs` and `clientCertificateRef` -> certificates, each read once.

mod secret;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::shared::SecretRef;
use isthmus_api::{Kind, NamespacedName, ObjectRef, Secret};
use isthmus_routing::{Certificate, CertificateKey};

use super::reference_grant::{From, ReferenceGrants, To};
use super::{is_nameable, of_group};
pub(super) use secret::in_words;
use secret::{SecretContent, SecretFault};

/// Why a certificateRef is invalid. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CertificateFault {
    #[error("{kind} {group} is not a kind of certificate that is supported; refer to a Secret of the core group", group = of_group(.group))]
    Kind { group: String, kind: String },
    #[error(
        "Secret {to} is in another namespace and no ReferenceGrant there permits {kind}s of namespace `{from}` to refer to it; create one"
    )]
    NotPermitted { to: NamespacedName, kind: String, from: String },
    #[error("Secret {0} does not exist; create it or correct the name")]
    NotFound(NamespacedName),
    #[error("Secret {0} could not be read yet, and it is tried again; the log of the controller says why")]
    Unread(NamespacedName),
    #[error("Secret {secret} {fault}")]
    Secret { secret: NamespacedName, fault: SecretFault },
}

impl CertificateFault {
    /// > This reason must be used only when the reference is allowed, either by
    /// > referencing an object in the same namespace as the Gateway, or when
    /// > a cross-namespace reference has been explicitly allowed by a ReferenceGrant.
    /// > If the reference is not allowed, the reason RefNotPermitted must be used
    /// > instead.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotPermitted { .. } => "RefNotPermitted",
            Self::Kind { .. } | Self::NotFound(_) | Self::Unread(_) | Self::Secret { .. } => "InvalidCertificateRef",
        }
    }

    /// The certificate that proxies go on with, if they hold one: its Secret is there, but what is in it cannot be read; or nobody knows.
    pub(crate) fn kept(&self) -> Option<CertificateKey> {
        match self {
            Self::Unread(secret) => Some(key(secret.clone())),
            Self::Secret { secret, fault } if fault.is_of_content() => Some(key(secret.clone())),
            _ => None,
        }
    }
}

/// Secrets that certificateRefs are looked up in, with those that were read before.
#[derive(Debug)]
pub(crate) struct Certificates<'g, 'a> {
    secrets: &'a BTreeMap<NamespacedName, Arc<Secret>>,
    /// Of which it is not known whether they are there.
    unread: &'a BTreeSet<ObjectRef>,
    grants: &'g ReferenceGrants<'a>,
    read: BTreeMap<NamespacedName, Result<Arc<Certificate>, SecretFault>>,
    /// Looked for, found or not.
    wanted: BTreeSet<ObjectRef>,
}

impl<'g, 'a> Certificates<'g, 'a> {
    pub(crate) fn new(
        secrets: &'a BTreeMap<NamespacedName, Arc<Secret>>,
        unread: &'a BTreeSet<ObjectRef>,
        grants: &'g ReferenceGrants<'a>,
    ) -> Self {
        Self { secrets, unread, grants, read: BTreeMap::new(), wanted: BTreeSet::new() }
    }

    /// Finds and reads the Secret that a Gateway or a ListenerSet refers to.
    pub(crate) fn resolve(&mut self, from: From<'_>, reference: &SecretRef) -> Result<CertificateKey, CertificateFault> {
        if !reference.group.is_empty() || reference.kind != "Secret" {
            return Err(CertificateFault::Kind { group: reference.group.clone(), kind: reference.kind.clone() });
        }
        let namespace = reference.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or(from.namespace);
        let name = NamespacedName::new(namespace, reference.name.as_str());
        if !self.grants.permits(from, To { group: "", kind: "Secret", namespace, name: &reference.name }) {
            return Err(CertificateFault::NotPermitted { to: name, kind: from.kind.to_owned(), from: from.namespace.to_owned() });
        }
        let object = ObjectRef { kind: Kind::Secret, namespace: Some(name.namespace.clone()), name: name.name.clone() };
        let is_unread = self.unread.contains(&object) && is_nameable(&name);
        self.wanted.insert(object);
        let Some(found) = self.secrets.get(&name).filter(|_| is_nameable(&name)) else {
            return Err(if is_unread { CertificateFault::Unread(name) } else { CertificateFault::NotFound(name) });
        };
        let read = self.read.entry(name.clone()).or_insert_with(|| secret::read(content(found)));
        match read {
            Ok(_) => Ok(key(name)),
            Err(fault) => Err(CertificateFault::Secret { secret: name, fault: fault.clone() }),
        }
    }

    /// Every certificate that can be served and that something refers to; those whose content cannot be read, or could not yet; every
    /// Secret that was looked for.
    pub(crate) fn into_read(self) -> Read {
        let mut good = BTreeMap::new();
        let is_wanted = |object: &&ObjectRef| self.wanted.contains(*object);
        let unread =
            self.unread.iter().filter(is_wanted).filter_map(|object| Some((object.namespace.clone()?, object.name.clone())));
        let unread =
            unread.map(|(namespace, name)| NamespacedName::new(namespace, name)).filter(|name| !self.secrets.contains_key(name));
        let mut kept: BTreeSet<_> = unread.map(key).collect();
        for (name, read) in self.read {
            match read {
                Ok(certificate) => drop(good.insert(key(name), certificate)),
                Err(fault) if fault.is_of_content() => drop(kept.insert(key(name))),
                Err(_) => {}
            }
        }
        (good, kept, self.wanted)
    }
}

type Read = (BTreeMap<CertificateKey, Arc<Certificate>>, BTreeSet<CertificateKey>, BTreeSet<ObjectRef>);

fn key(name: NamespacedName) -> CertificateKey {
    CertificateKey { namespace: name.namespace, name: name.name }
}

fn content(secret: &Secret) -> SecretContent<'_> {
    let field = |name: &str| secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
    SecretContent { kind: secret.type_.as_deref().unwrap_or("Opaque"), chain: field("tls.crt"), key: field("tls.key") }
}

#[cfg(test)]
mod tests {
    use isthmus_api::{Kind, ObjectRef};
    use serde_json::json;

    use crate::testing::{base, edge, gateway, objects, options, secret};
    use crate::{Options, translate};

    /// A controller that has just started may learn of a Secret only after a while.
    #[test]
    fn of_a_secret_that_was_not_read_yet_proxies_keep_what_they_hold() {
        let reference = ObjectRef { kind: Kind::Secret, namespace: Some("shop".to_owned()), name: "pair".to_owned() };
        let listener = json!({"name": "tls", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "pair"}]}});
        let listeners = gateway(&json!([listener]));
        let unread = Options { unread: [reference.clone()].into(), ..options() };
        for (what, with_secret, options, listens, kept) in [
            ("absent", false, options(), false, false),
            ("not read yet", false, unread.clone(), true, true),
            ("read before", true, unread, true, false),
        ] {
            let secret = with_secret.then(|| secret("pair"));
            let translation = translate(&objects(base().into_iter().chain([listeners.clone()]).chain(secret)), &options);
            let snapshot = translation.snapshot;
            assert_eq!(snapshot.gateways.contains_key(&edge()), listens, "{what}");
            assert_eq!(
                (snapshot.kept.len(), snapshot.certificates.len()),
                (usize::from(kept), usize::from(with_secret)),
                "{what}"
            );
            assert_eq!(translation.references, [reference.clone()].into(), "{what}");
        }
    }
}
