//! What is said on the stream. A message is a JSON object with one member that names it; members and fields that are not known are passed
//! over, so that either side may be newer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use isthmus_routing::snapshot::{Item, ModelVersion};
use isthmus_routing::{BackendKey, Version};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// From a proxy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FromProxy {
    /// The first message.
    Hello(Hello),
    /// Its data plane serves this version, or says something new about it.
    Ack(Ack),
    /// It goes on with what it served before.
    Nack(Nack),
    /// The Services that its workload calls.
    Subscribe(Subscribe),
    /// It wants a certificate.
    Csr(Csr),
}

/// Who a proxy is and what it has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The oldest model version that it can read.
    pub(crate) oldest: ModelVersion,
    /// The newest.
    pub(crate) newest: ModelVersion,
    /// Its release.
    pub(crate) package: String,
    /// What it was sent at last and took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held: Option<Held>,
    /// As in [`Subscribe`].
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) calls: BTreeSet<BackendKey>,
}

/// Characters of the name of a release that are kept.
pub(crate) const RELEASE: usize = 64;

/// Characters of a refusal that are kept: it is told in statuses of others.
pub(crate) const REASON: usize = 4000;

/// The beginning of a text of somebody who may be anybody.
pub(crate) fn beginning(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

/// Services that a sidecar subscribes to at most.
pub(crate) const CALLS: usize = 4096;

/// The Services that a sidecar's workload calls: all of them, in the place of those that it named before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subscribe {
    /// At most [`CALLS`].
    pub(crate) services: BTreeSet<BackendKey>,
}

/// A request for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Csr {
    /// PKCS #10, as PEM.
    pub(crate) csr: String,
}

/// What a proxy was sent at last and took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Held {
    /// As the commit named it.
    pub(crate) version: Version,
    /// Set when its data plane serves it: what it has to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) served: Option<Ack>,
}

/// What became of a version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ack {
    /// As the commit named it.
    pub(crate) version: Version,
    /// Listeners, by name, that do not serve as they should, and why.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) faults: BTreeMap<String, String>,
    /// Items of a kind that this proxy does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unknown: Vec<String>,
}

/// Why a version is not served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nack {
    /// As the commit named it.
    pub(crate) version: Version,
    /// In words for people.
    pub(crate) reason: String,
}

/// [`FromProxy`] as it is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ReadFromProxy {
    pub(crate) hello: Option<Hello>,
    pub(crate) ack: Option<Ack>,
    pub(crate) nack: Option<Nack>,
    pub(crate) subscribe: Option<Subscribe>,
    pub(crate) csr: Option<Csr>,
}

/// To a proxy.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ToProxy<'i> {
    /// The first message.
    Welcome(Welcome),
    /// Everything follows: forget what was sent before. What is served stays until the commit.
    Reset {},
    /// An item, new or changed.
    #[serde(serialize_with = "put")]
    Put(&'i Item),
    /// An item is no more.
    Remove {
        /// Its name.
        key: String,
    },
    /// All items of this version have been sent: serve it.
    Commit {
        /// A hash of the content.
        version: Version,
    },
    /// Go on there; without an address: at the controller's.
    Refer {
        /// The leader's.
        #[serde(skip_serializing_if = "Option::is_none")]
        address: Option<SocketAddr>,
    },
    /// Open a new stream, with a fresh token.
    Renew {},
    /// What the last request for a certificate has brought.
    Certificate {
        /// As PEM, the leaf first.
        chain: String,
    },
    /// The last request for a certificate has brought none.
    Denied {
        /// In words for people.
        reason: String,
    },
}

/// What a stream is spoken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Welcome {
    /// The model version of all items.
    pub(crate) model: ModelVersion,
    /// The controller's release.
    pub(crate) package: String,
}

/// [`ToProxy`] as it is read.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct ReadToProxy<'b> {
    pub(crate) welcome: Option<Welcome>,
    pub(crate) reset: Option<Nothing>,
    #[serde(borrow)]
    pub(crate) put: Option<ReadPut<'b>>,
    pub(crate) remove: Option<ReadRemove>,
    pub(crate) commit: Option<ReadCommit>,
    pub(crate) refer: Option<ReadRefer>,
    pub(crate) renew: Option<Nothing>,
    pub(crate) certificate: Option<ReadCertificate>,
    pub(crate) denied: Option<ReadDenied>,
}

/// A message without content.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Nothing {}

/// An item whose value is parsed when its kind is known.
#[derive(Debug, Deserialize)]
pub(crate) struct ReadPut<'b> {
    pub(crate) key: String,
    #[serde(borrow, default)]
    pub(crate) value: Option<&'b RawValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadRemove {
    pub(crate) key: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadCommit {
    pub(crate) version: Version,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadRefer {
    #[serde(default)]
    pub(crate) address: Option<SocketAddr>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadCertificate {
    pub(crate) chain: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ReadDenied {
    pub(crate) reason: String,
}

fn put<S: serde::Serializer>(item: &&Item, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct;
    let mut put = serializer.serialize_struct("Put", 2)?;
    put.serialize_field("key", &item.key())?;
    put.serialize_field("value", &item.value())?;
    put.end()
}

#[cfg(test)]
mod tests {
    use isthmus_routing::{Backend, Snapshot};

    use super::*;

    /// The form on the wire, which releases share: a change here needs a new path or a default.
    #[test]
    fn messages_have_this_form() {
        let version = Snapshot::default().version();
        let backend = Item::Backend("Service/a/b:80".parse().unwrap(), Backend::default().into());
        let kept = Item::Kept("Secret/a/b".parse().unwrap());
        let to_proxy = [
            (
                ToProxy::Welcome(Welcome { model: ModelVersion(1), package: "1.2.3".to_owned() }),
                r#"{"welcome":{"model":1,"package":"1.2.3"}}"#.to_owned(),
            ),
            (ToProxy::Reset {}, r#"{"reset":{}}"#.to_owned()),
            (ToProxy::Put(&backend), r#"{"put":{"key":"Service/a/b:80","value":{"protocol":"HTTP","endpoints":[]}}}"#.to_owned()),
            (ToProxy::Put(&kept), r#"{"put":{"key":"Kept/Secret/a/b","value":null}}"#.to_owned()),
            (ToProxy::Remove { key: "Secret/a/b".to_owned() }, r#"{"remove":{"key":"Secret/a/b"}}"#.to_owned()),
            (ToProxy::Commit { version }, format!(r#"{{"commit":{{"version":"{version}"}}}}"#)),
            (ToProxy::Refer { address: None }, r#"{"refer":{}}"#.to_owned()),
            (ToProxy::Refer { address: Some(([10, 0, 0, 1], 1).into()) }, r#"{"refer":{"address":"10.0.0.1:1"}}"#.to_owned()),
            (ToProxy::Renew {}, r#"{"renew":{}}"#.to_owned()),
            (ToProxy::Certificate { chain: "c".to_owned() }, r#"{"certificate":{"chain":"c"}}"#.to_owned()),
            (ToProxy::Denied { reason: "why".to_owned() }, r#"{"denied":{"reason":"why"}}"#.to_owned()),
        ];
        for (message, text) in to_proxy {
            assert_eq!(serde_json::to_string(&message).unwrap(), text);
            serde_json::from_str::<ReadToProxy<'_>>(&text).unwrap();
        }
        let ack = Ack { version, faults: BTreeMap::new(), unknown: Vec::new() };
        let held = Some(Held { version, served: Some(ack.clone()) });
        let calls = BTreeSet::new();
        let hello = Hello { oldest: ModelVersion(1), newest: ModelVersion(2), package: "1.2.3".to_owned(), held, calls };
        let calls: BTreeSet<BackendKey> = ["Service/a/b:80".parse().unwrap()].into();
        let sidecar = Hello { held: None, calls: calls.clone(), ..hello.clone() };
        let from_proxy = [
            (
                FromProxy::Hello(sidecar),
                r#"{"hello":{"oldest":1,"newest":2,"package":"1.2.3","calls":["Service/a/b:80"]}}"#.to_owned(),
            ),
            (FromProxy::Subscribe(Subscribe { services: calls }), r#"{"subscribe":{"services":["Service/a/b:80"]}}"#.to_owned()),
            (FromProxy::Csr(Csr { csr: "r".to_owned() }), r#"{"csr":{"csr":"r"}}"#.to_owned()),
            (
                FromProxy::Hello(hello),
                format!(
                    r#"{{"hello":{{"oldest":1,"newest":2,"package":"1.2.3","held":{{"version":"{version}","served":{{"version":"{version}"}}}}}}}}"#
                ),
            ),
            (FromProxy::Ack(ack), format!(r#"{{"ack":{{"version":"{version}"}}}}"#)),
            (
                FromProxy::Nack(Nack { version, reason: "why".to_owned() }),
                format!(r#"{{"nack":{{"version":"{version}","reason":"why"}}}}"#),
            ),
        ];
        for (message, text) in from_proxy {
            assert_eq!(serde_json::to_string(&message).unwrap(), text);
            serde_json::from_str::<ReadFromProxy>(&text).unwrap();
        }
    }

    #[test]
    fn what_is_not_known_is_passed_over() {
        let read: ReadToProxy<'_> = serde_json::from_str(r#"{"praise":{"of":"folly"}}"#).unwrap();
        assert!(read.put.is_none() && read.commit.is_none());
        let read: ReadToProxy<'_> =
            serde_json::from_str(r#"{"put":{"key":"X/y","value":{"a":[1]},"more":1},"extra":2}"#).unwrap();
        assert_eq!(read.put.and_then(|put| put.value).map(RawValue::get), Some(r#"{"a":[1]}"#));
        for text in ["", "{", "[]", r#"{"put":{}}"#, r#"{"commit":{"version":"x"}}"#] {
            assert!(serde_json::from_str::<ReadToProxy<'_>>(text).is_err(), "{text}");
        }
    }
}
