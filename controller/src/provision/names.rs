//! What the objects of a Gateway are called and labelled.

use std::collections::BTreeMap;

use isthmus_routing::{GatewayKey, Transport};
use sha2::{Digest, Sha256};

/// The label with the Gateway's name, from the Gateway API (GEP-1762).
pub const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";
/// The label that says what an object is part of.
pub const APP: (&str, &str) = ("app.kubernetes.io/name", "isthmus-gateway");
/// The label that says that an object is ours.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "isthmus-controller");

/// The longest name that is not cut: the Deployment controller adds up to 11 characters to it, and pods' hostnames have 63.
const LONGEST: usize = 52;
const PREFIX: &str = "isthmus-";

/// The name of each object of a Gateway, a DNS label: `isthmus-<gateway>`, or cut and with a hash where that is none or too long.
pub fn object_name(gateway: &GatewayKey) -> String {
    let whole = format!("{PREFIX}{}", gateway.name);
    if whole.len() <= LONGEST && !gateway.name.contains('.') {
        return whole;
    }
    let label = gateway.name.replace('.', "-");
    let cut: String = label.chars().take(LONGEST - PREFIX.len() - 11).collect();
    format!("{PREFIX}{}-{}", cut.trim_end_matches('-'), hash(gateway))
}

/// The value of [`GATEWAY_NAME`]: the name, or cut and with a hash where it is longer than labels may be.
pub fn gateway_label(gateway: &GatewayKey) -> String {
    if gateway.name.len() <= 63 {
        return gateway.name.clone();
    }
    let cut: String = gateway.name.chars().take(52).collect();
    format!("{cut}-{}", hash(gateway))
}

/// What selects the pods of a Gateway. It never changes: a Deployment's selector cannot.
pub fn selector(gateway: &GatewayKey) -> BTreeMap<String, String> {
    BTreeMap::from([(GATEWAY_NAME.to_owned(), gateway_label(gateway)), (APP.0.to_owned(), APP.1.to_owned())])
}

/// The labels of an object of a Gateway. Ours win over those that the Gateway asks for.
pub fn labels(gateway: &GatewayKey, asked: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut labels = asked.clone();
    labels.extend(selector(gateway));
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

/// The start of the SHA-256 of `namespace/name`: 40 bits in hex.
fn hash(gateway: &GatewayKey) -> String {
    hex(&Sha256::digest(format!("{}/{}", gateway.namespace, gateway.name)), 10)
}

/// The first digits of some bytes in hex.
pub(crate) fn hex(bytes: &[u8], digits: usize) -> String {
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .take(digits)
        .filter_map(|digit| char::from_digit(digit.into(), 16))
        .collect()
}

/// The name of a port in a Service and in a pod; both have names that are unique.
pub(super) fn port((port, transport): (u16, Transport)) -> String {
    match transport {
        Transport::Tcp => format!("p-{port}"),
        Transport::Udp => format!("u-{port}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> GatewayKey {
        GatewayKey { namespace: "shop".into(), name: name.into() }
    }

    #[test]
    fn names_are_dns_labels_that_differ() {
        let longest = "a".repeat(44);
        let cut = "a".repeat(45);
        for (name, expected) in [
            ("edge", "isthmus-edge"),
            (longest.as_str(), &format!("isthmus-{longest}")),
            (cut.as_str(), &format!("isthmus-{}-{}", "a".repeat(33), hash(&key(&cut)))),
            ("edge.shop", &format!("isthmus-edge-shop-{}", hash(&key("edge.shop")))),
            (
                &format!("{}.b", "a".repeat(32)),
                &format!("isthmus-{}-{}", "a".repeat(32), hash(&key(&format!("{}.b", "a".repeat(32))))),
            ),
        ] {
            let actual = object_name(&key(name));
            assert_eq!(actual, *expected);
            assert!(actual.len() <= LONGEST, "{actual}");
        }
        assert_ne!(object_name(&key("edge.shop")), object_name(&key("edge-shop")));
        assert_eq!(hash(&key("edge")).len(), 10);
    }

    #[test]
    fn labels_fit_a_name_of_253_characters() {
        let long = "a".repeat(253);
        assert_eq!(gateway_label(&key(&"a".repeat(63))), "a".repeat(63));
        assert_eq!(gateway_label(&key(&long)), format!("{}-{}", "a".repeat(52), hash(&key(&long))));
        assert_eq!(gateway_label(&key(&long)).len(), 63);
    }

    #[test]
    fn our_labels_win() {
        let asked = BTreeMap::from([(GATEWAY_NAME.to_owned(), "other".to_owned()), ("team".to_owned(), "shop".to_owned())]);
        let labels = labels(&key("edge"), &asked);
        assert_eq!(labels[GATEWAY_NAME], "edge");
        assert_eq!(labels["team"], "shop");
    }
}
