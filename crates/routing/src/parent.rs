//! Services as parents of routes: what their clients call, and which rules answer them.
//!
//! This is where routing for a Service differs from routing for a listener (`Parent::{Listener, Service}` of the design): it has no
//! hostname and its routes have none, whatever Host a request names; clients of a namespace may have routes of their own; and its
//! routes may refer to backends of other namespaces without a grant, so what they are is not in [`crate::Snapshot::routes`] but in
//! [`crate::Snapshot::service_routes`]. Everything else is the same: [`crate::RouteTable::of`] compiles both.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Attachment, Spoken};

/// A port of a Service, as its clients see it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceParent {
    /// What clients dial: the Service's own addresses (`clusterIPs`), not those of its endpoints. Empty where none was given yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// What its clients say (`appProtocol`, or the name of the port).
    #[serde(default, skip_serializing_if = "Spoken::is_unknown")]
    pub spoken: Spoken,
    /// Producer routes, those of the Service's own namespace: for every client that has no consumer routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Attachment>,
    /// Consumer routes, by the namespace that they are in: for clients there, and for nobody else. No list is empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub consumers: BTreeMap<String, Vec<Attachment>>,
}

impl ServiceParent {
    /// The routes for clients of a namespace: the consumer routes there, which replace the producer's, or else the producer's. If there
    /// are none, clients reach the Service's endpoints as they are; if there are some and no rule of them matches, the answer is 404.
    /// The Service itself is never what is left over (GEP-1294):
    ///
    /// > When you create an `xRoute` targeting a service as a `parentRef` you are replacing that implicit logic - not adding to it.
    pub fn routes_for(&self, namespace: &str) -> &[Attachment] {
        self.consumers.get(namespace).unwrap_or(&self.routes)
    }

    /// Every attachment, the producer's first, consumers' by namespace.
    pub fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.routes.iter().chain(self.consumers.values().flatten())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn consumer_routes_replace_the_producers_for_their_own_namespace() {
        let attached = |route: &str| vec![Attachment { route: route.parse().unwrap(), hostnames: Vec::new() }];
        let consumers = BTreeMap::from([("client".to_owned(), attached("HTTPRoute/client/consumer"))]);
        let producer = attached("HTTPRoute/shop/producer");
        let both = ServiceParent { routes: producer.clone(), consumers: consumers.clone(), ..ServiceParent::default() };
        let consumer_only = ServiceParent { consumers, ..ServiceParent::default() };
        for (parent, namespace, expected) in [
            (&both, "client", Some("HTTPRoute/client/consumer")),
            (&both, "shop", Some("HTTPRoute/shop/producer")),
            (&both, "elsewhere", Some("HTTPRoute/shop/producer")),
            (&consumer_only, "client", Some("HTTPRoute/client/consumer")),
            (&consumer_only, "shop", None),
        ] {
            let found = parent.routes_for(namespace).iter().map(|attachment| attachment.route.to_string()).collect::<Vec<_>>();
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{namespace}");
        }
        assert_eq!(both.attachments().count(), 2);
    }
}
