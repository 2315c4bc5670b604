//! `caCertificateRefs` -> certificates of authorities, each object read once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::{Kind, NamespacedName, ObjectRef, Objects};
use isthmus_routing::{Bundle, BundleKey, BundleKind};
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

use super::certificate::in_words;
use super::reference_grant::{From, ReferenceGrants, To};
use super::{is_nameable, of_group};

/// Where the certificates are in either kind of object.
const FIELD: &str = "ca.crt";

/// Why a caCertificateRef is invalid. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BundleFault {
    #[error(
        "{kind} {group} is not a kind of object that CA certificates are read from; refer to a ConfigMap or a Secret of the core group",
        group = of_group(.group)
    )]
    Kind { group: String, kind: String },
    #[error(
        "{} is in another namespace and no ReferenceGrant there permits {kind}s of namespace `{from}` to refer to it; create one",
        shown(.bundle)
    )]
    NotPermitted { bundle: BundleKey, kind: String, from: String },
    #[error("{} does not exist; create it or correct the name", shown(.0))]
    NotFound(BundleKey),
    #[error("{} could not be read yet, and it is tried again; the log of the controller says why", shown(.0))]
    Unread(BundleKey),
    #[error("{} {fault}", shown(.bundle))]
    Content { bundle: BundleKey, fault: ContentFault },
}

/// Why an object holds no certificates of authorities. Each says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContentFault {
    #[error("has no `ca.crt`; add the CA certificates there in PEM form")]
    Absent,
    #[error("has an empty `ca.crt`; fill it with the CA certificates in PEM form")]
    Empty,
    #[error("has a `ca.crt` that is not PEM ({0}); expected `-----BEGIN CERTIFICATE-----`")]
    NotPem(&'static str),
    #[error("has a `ca.crt` whose certificate {at} cannot be read ({fault}); replace or remove it")]
    BadCertificate { at: usize, fault: String },
}

impl BundleFault {
    /// The bundle that proxies go on with, if they hold one: its object is there, but what is in it cannot be read; or nobody knows.
    fn kept(&self) -> Option<&BundleKey> {
        match self {
            Self::Unread(bundle) | Self::Content { bundle, .. } => Some(bundle),
            Self::Kind { .. } | Self::NotPermitted { .. } | Self::NotFound(_) => None,
        }
    }
}

/// A caCertificateRef, whoever has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct BundleRef<'r> {
    pub(super) group: &'r str,
    pub(super) kind: &'r str,
    /// None: that of the object which refers.
    pub(super) namespace: Option<&'r str>,
    pub(super) name: &'r str,
}

/// What a list of caCertificateRefs came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Authorities {
    /// Those that can be read, and those that proxies may hold from before; in the order of the object, each once.
    pub(crate) bundles: Vec<BundleKey>,
    /// Whether at least one of them can be read now.
    pub(crate) is_readable: bool,
    /// What is wrong with the others, in the order of the object.
    pub(crate) faults: Vec<BundleFault>,
}

/// Objects that caCertificateRefs are looked up in, with those that were read before.
#[derive(Debug)]
pub(crate) struct Bundles<'g, 'a> {
    objects: &'a Objects,
    /// Of which it is not known whether they are there.
    unread: &'a BTreeSet<ObjectRef>,
    grants: &'g ReferenceGrants<'a>,
    read: BTreeMap<BundleKey, Result<Arc<Bundle>, ContentFault>>,
    /// Looked for, found or not.
    wanted: BTreeSet<BundleKey>,
}

impl<'g, 'a> Bundles<'g, 'a> {
    pub(super) fn new(objects: &'a Objects, unread: &'a BTreeSet<ObjectRef>, grants: &'g ReferenceGrants<'a>) -> Self {
        Self { objects, unread, grants, read: BTreeMap::new(), wanted: BTreeSet::new() }
    }

    /// Finds and reads everything that a list refers to.
    pub(super) fn authorities<'r>(&mut self, from: From<'_>, references: impl IntoIterator<Item = BundleRef<'r>>) -> Authorities {
        let mut found = Authorities::default();
        for reference in references {
            let bundle = match self.resolve(from, reference) {
                Ok(bundle) => {
                    found.is_readable = true;
                    Some(bundle)
                }
                Err(fault) => {
                    let kept = fault.kept().cloned();
                    found.faults.push(fault);
                    kept
                }
            };
            found.bundles.extend(bundle.filter(|bundle| !found.bundles.contains(bundle)));
        }
        found
    }

    fn resolve(&mut self, from: From<'_>, reference: BundleRef<'_>) -> Result<BundleKey, BundleFault> {
        let BundleRef { group, kind: kind_name, name, .. } = reference;
        let kind = match kind_name {
            "ConfigMap" if group.is_empty() => BundleKind::ConfigMap,
            "Secret" if group.is_empty() => BundleKind::Secret,
            _ => return Err(BundleFault::Kind { group: group.to_owned(), kind: kind_name.to_owned() }),
        };
        let namespace = reference.namespace.filter(|namespace| !namespace.is_empty()).unwrap_or(from.namespace);
        let bundle = BundleKey { kind, namespace: namespace.to_owned(), name: name.to_owned() };
        if !self.grants.permits(from, To { group: "", kind: kind_name, namespace, name }) {
            return Err(BundleFault::NotPermitted { bundle, kind: from.kind.to_owned(), from: from.namespace.to_owned() });
        }
        let object = NamespacedName::new(namespace, name);
        if !is_nameable(&object) {
            return Err(BundleFault::NotFound(bundle));
        }
        self.wanted.insert(bundle.clone());
        let Some(found) = self.content(kind, &object) else {
            return Err(if self.unread.contains(&object_ref(&bundle)) {
                BundleFault::Unread(bundle)
            } else {
                BundleFault::NotFound(bundle)
            });
        };
        match self.read.entry(bundle.clone()).or_insert_with(|| read(found)) {
            Ok(_) => Ok(bundle),
            Err(fault) => Err(BundleFault::Content { fault: fault.clone(), bundle }),
        }
    }

    /// What an object has under the field; none: there is no such object.
    fn content(&self, kind: BundleKind, name: &NamespacedName) -> Option<Option<&'a [u8]>> {
        match kind {
            BundleKind::Secret => {
                let data = self.objects.secrets.get(name)?.data.as_ref();
                Some(data.and_then(|data| data.get(FIELD)).map(|bytes| bytes.0.as_slice()))
            }
            BundleKind::ConfigMap => {
                let found = self.objects.config_maps.get(name)?;
                let text = found.data.as_ref().and_then(|data| data.get(FIELD)).map(String::as_bytes);
                let binary = found.binary_data.as_ref().and_then(|data| data.get(FIELD)).map(|bytes| bytes.0.as_slice());
                Some(text.or(binary))
            }
        }
    }

    /// Every bundle that can be used and that something refers to; those whose content cannot be read, or could not yet; every
    /// object that was looked for.
    pub(super) fn into_read(self) -> Read {
        let is_unread = |key: &&BundleKey| self.unread.contains(&object_ref(key)) && !self.read.contains_key(*key);
        let mut kept: BTreeSet<_> = self.wanted.iter().filter(is_unread).cloned().collect();
        let mut good = BTreeMap::new();
        for (key, read) in self.read {
            match read {
                Ok(bundle) => drop(good.insert(key, bundle)),
                Err(_) => drop(kept.insert(key)),
            }
        }
        (good, kept, self.wanted.iter().map(object_ref).collect())
    }
}

type Read = (BTreeMap<BundleKey, Arc<Bundle>>, BTreeSet<BundleKey>, BTreeSet<ObjectRef>);

/// Checks that each certificate can be an authority. Whether one may sign, and whether it is still valid, is judged when a certificate
/// of somebody else is compared with it.
fn read(content: Option<&[u8]>) -> Result<Arc<Bundle>, ContentFault> {
    let bytes = content.ok_or(ContentFault::Absent)?;
    if bytes.trim_ascii().is_empty() {
        return Err(ContentFault::Empty);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| ContentFault::NotPem("it is binary"))?;
    let mut store = RootCertStore::empty();
    for (at, certificate) in CertificateDer::pem_slice_iter(bytes).enumerate() {
        let certificate = certificate.map_err(|fault| ContentFault::NotPem(in_words(&fault)))?;
        store.add(certificate).map_err(|fault| ContentFault::BadCertificate { at: at + 1, fault: fault.to_string() })?;
    }
    if store.is_empty() {
        return Err(ContentFault::NotPem(in_words(&pem::Error::NoItemsFound)));
    }
    Ok(Arc::new(Bundle { certificates: text.to_owned() }))
}

fn object_ref(key: &BundleKey) -> ObjectRef {
    let kind = match key.kind {
        BundleKind::ConfigMap => Kind::ConfigMap,
        BundleKind::Secret => Kind::Secret,
    };
    ObjectRef { kind, namespace: Some(key.namespace.clone()), name: key.name.clone() }
}

/// `ConfigMap shop/ca`
fn shown(key: &BundleKey) -> String {
    format!("{} {}/{}", object_ref(key).kind, key.namespace, key.name)
}

#[cfg(test)]
mod tests {
    use isthmus_api::{Kind, ObjectRef};
    use serde_json::{Value, json};

    use super::{Bundles, ContentFault, read};
    use crate::graph::bundle::BundleRef;
    use crate::graph::reference_grant::{From, ReferenceGrants};
    use crate::testing::{authority, bundle, object, objects};

    #[test]
    fn each_fault_of_content_has_its_own_message() {
        let (one, two) = (authority(), authority());
        let garbage = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
        let nothing = ContentFault::NotPem("nothing of that kind is in it");
        for (content, expected) in [
            (Some(one.clone()), None),
            (Some(format!("# ours\n{one}\n# theirs\n{two}")), None),
            (None, Some(ContentFault::Absent)),
            (Some(" \n".to_owned()), Some(ContentFault::Empty)),
            (Some("Hello world".to_owned()), Some(nothing.clone())),
            (Some(key.to_owned()), Some(nothing)),
            (Some(one[..80].to_owned()), Some(ContentFault::NotPem("its last section has no end"))),
        ] {
            assert_eq!(read(content.as_deref().map(str::as_bytes)).err(), expected, "{content:?}");
        }
        assert!(matches!(read(Some(&[0xff, 0xfe])), Err(ContentFault::NotPem("it is binary"))));
        let second = format!("{one}{garbage}");
        let found = read(Some(second.as_bytes()));
        assert!(matches!(found, Err(ContentFault::BadCertificate { at: 2, .. })), "{found:?}");
    }

    #[test]
    fn references_that_lead_to_authorities_and_that_do_not() {
        let grant = json!({
            "from": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "shop"}],
            "to": [{"group": "", "kind": "ConfigMap", "name": "granted"}],
        });
        let secret = |content: &Value| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "ca", "namespace": "shop"}, "data": content});
        let bytes = serde_json::to_value(isthmus_api::core::ByteString(authority().into_bytes())).unwrap();
        let mut binary = bundle("shop", "binary", None);
        binary["binaryData"] = json!({"ca.crt": bytes});
        let world = objects([
            bundle("shop", "ca", Some(&authority())),
            bundle("shop", "bare", None),
            bundle("bank", "granted", Some(&authority())),
            bundle("bank", "private", Some(&authority())),
            secret(&json!({"ca.crt": bytes})),
            binary,
            object("gateway.networking.k8s.io/v1", "ReferenceGrant", "bank", "g", json!({}), grant),
        ]);
        let unread = ["late", "ca"].map(|name| ObjectRef {
            kind: Kind::ConfigMap,
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
        });
        let (unread, grants) = (unread.into(), ReferenceGrants::new(&world));
        let mut bundles = Bundles::new(&world, &unread, &grants);
        let from = From { group: "gateway.networking.k8s.io", kind: "Gateway", namespace: "shop" };
        for (group, kind, namespace, name, readable, keys, fault) in [
            ("", "ConfigMap", None, "ca", true, 1, ""),
            ("", "ConfigMap", Some(""), "binary", true, 1, ""),
            ("", "Secret", None, "ca", true, 1, ""),
            ("", "ConfigMap", Some("bank"), "granted", true, 1, ""),
            ("", "ConfigMap", None, "bare", false, 1, "ConfigMap shop/bare has no `ca.crt`; add"),
            ("", "ConfigMap", None, "late", false, 1, "ConfigMap shop/late could not be read yet"),
            ("", "ConfigMap", None, "absent", false, 0, "ConfigMap shop/absent does not exist; create it"),
            ("", "ConfigMap", None, "a/b", false, 0, "ConfigMap shop/a/b does not exist"),
            ("", "Service", None, "ca", false, 0, "Service of the core group is not a kind"),
            ("certificates.k8s.io", "ClusterTrustBundle", None, "ca", false, 0, "ClusterTrustBundle of group"),
            ("", "ConfigMap", Some("bank"), "private", false, 0, "ConfigMap bank/private is in another namespace"),
            ("", "Secret", Some("bank"), "granted", false, 0, "Secret bank/granted is in another namespace"),
        ] {
            let found = bundles.authorities(from, [BundleRef { group, kind, namespace, name }]);
            assert_eq!((found.is_readable, found.bundles.len()), (readable, keys), "{kind} {name}");
            let told = found.faults.first().map(ToString::to_string).unwrap_or_default();
            assert_eq!((told.is_empty(), told.starts_with(fault)), (fault.is_empty(), true), "{told}");
        }
        let (good, kept, wanted) = bundles.into_read();
        let named = |keys: Vec<String>| keys.join(" ");
        assert_eq!(
            named(good.keys().map(ToString::to_string).collect()),
            "ConfigMap/bank/granted ConfigMap/shop/binary ConfigMap/shop/ca Secret/shop/ca"
        );
        assert_eq!(named(kept.iter().map(ToString::to_string).collect()), "ConfigMap/shop/bare ConfigMap/shop/late");
        assert_eq!(wanted.len(), 7, "what may not be referred to is not looked for: {wanted:?}");
    }
}
