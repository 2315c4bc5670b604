//! Who may refer to what in another namespace.

use std::collections::BTreeMap;

use isthmus_api::{Objects, ReferenceGrant};

/// An object that refers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct From<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// An object that is referred to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct To<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// Every ReferenceGrant, by the namespace that gives it.
#[derive(Debug)]
pub(crate) struct ReferenceGrants<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a ReferenceGrant>>,
}

impl<'a> ReferenceGrants<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let mut by_namespace = BTreeMap::<_, Vec<_>>::new();
        for (name, grant) in &objects.reference_grants {
            by_namespace.entry(name.namespace.as_str()).or_default().push(&**grant);
        }
        Self { by_namespace }
    }

    /// > Implementations that support ReferenceGrant MUST NOT permit cross-namespace references which have
    /// > no grant, and MUST respond to the removal of a grant by revoking the access
    /// > that the grant allowed.
    ///
    /// Within one namespace nothing has to be granted.
    pub(crate) fn permits(&self, from: From<'_>, to: To<'_>) -> bool {
        from.namespace == to.namespace
            || self.by_namespace.get(to.namespace).is_some_and(|grants| grants.iter().any(|grant| grants_one(grant, from, to)))
    }
}

/// > Each entry in this list MUST be considered
/// > to be an additional place that references can be valid from, or to put
/// > this another way, entries MUST be combined using OR.
fn grants_one(grant: &ReferenceGrant, from: From<'_>, to: To<'_>) -> bool {
    let trusts = grant.spec.from.iter().any(|f| f.group == from.group && f.kind == from.kind && f.namespace == from.namespace);
    let covers = || {
        let mut targets = grant.spec.to.iter();
        // > When unspecified, this policy
        // > refers to all resources of the specified Group and Kind in the local
        // > namespace.
        targets.any(|t| {
            t.group == to.group && t.kind == to.kind && t.name.as_deref().is_none_or(|name| name.is_empty() || name == to.name)
        })
    };
    trusts && covers()
}

#[cfg(test)]
mod tests {
    use isthmus_api::{Objects, decode};
    use serde_json::json;

    use super::{From, ReferenceGrants, To};

    #[test]
    fn only_what_is_granted_is_permitted() {
        let mut objects = Objects::default();
        objects.apply(
            decode(json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "ReferenceGrant", "metadata": {"name": "g", "namespace": "there"},
                "spec": {
                    "from": [
                        {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": "here"},
                        {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "here"},
                    ],
                    "to": [{"group": "", "kind": "Service"}, {"group": "", "kind": "Secret", "name": "tls"}],
                }
            }))
            .unwrap(),
        );
        let grants = ReferenceGrants::new(&objects);
        let gateway_api = "gateway.networking.k8s.io";
        for (group, from_kind, from, kind, namespace, name, expected) in [
            (gateway_api, "HTTPRoute", "here", "Service", "there", "any", true),
            (gateway_api, "Gateway", "here", "Secret", "there", "tls", true),
            (gateway_api, "Gateway", "here", "Secret", "there", "other", false),
            (gateway_api, "GRPCRoute", "here", "Service", "there", "any", false),
            ("", "HTTPRoute", "here", "Service", "there", "any", false),
            (gateway_api, "HTTPRoute", "elsewhere", "Service", "there", "any", false),
            (gateway_api, "HTTPRoute", "here", "ConfigMap", "there", "any", false),
            (gateway_api, "HTTPRoute", "here", "Service", "elsewhere", "any", false),
            (gateway_api, "GRPCRoute", "elsewhere", "ConfigMap", "elsewhere", "any", true),
        ] {
            let permitted =
                grants.permits(From { group, kind: from_kind, namespace: from }, To { group: "", kind, namespace, name });
            assert_eq!(permitted, expected, "{group}/{from_kind} of {from} -> {kind} {namespace}/{name}");
        }
    }
}
