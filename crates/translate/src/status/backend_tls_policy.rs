//! `BackendTLSPolicy.status`

use isthmus_api::shared::{GATEWAY_GROUP, ParentRef};
use isthmus_api::status::{PolicyAncestorStatus, PolicyStatus};

use super::{Verdict, listed};
use crate::CONTROLLER_NAME;
use crate::graph::backend_tls::{Ancestor, AncestorNode, PolicyNode, TargetFault};
use crate::graph::bundle::BundleFault;

/// The condition that says that pods refuse what the policy makes of connections to them.
const REFUSED: &str = "isthmus.dev/RefusedByStrictMode";

/// > For example, in BackendTLSPolicy, the Policy attaches to a Service that is
/// > used as a backend in a HTTPRoute that is itself attached to a Gateway.
/// > In this case, the relevant object for status is the Gateway, and that is the
/// > ancestor object referred to in this status.
///
/// Where the route is attached to a Service, it is that Service.
///
/// All of them: whoever writes the status knows what there is room for besides those of other controllers, and says what it leaves out.
pub(super) fn status(node: &PolicyNode) -> PolicyStatus {
    let ancestors = node.ancestors.iter().map(|(is, ancestor)| {
        let mut conditions = vec![
            accepted(node, ancestor).condition("Accepted", node.generation),
            resolved_refs(node).condition("ResolvedRefs", node.generation),
        ];
        conditions.extend(refused(node, ancestor).map(|verdict| verdict.condition(REFUSED, node.generation)));
        PolicyAncestorStatus { ancestor_ref: ancestor_ref(is), controller_name: CONTROLLER_NAME.to_owned(), conditions }
    });
    PolicyStatus { ancestors: ancestors.collect() }
}

fn ancestor_ref(ancestor: &Ancestor) -> ParentRef {
    let (group, kind, name) = match ancestor {
        Ancestor::Gateway(name) => (GATEWAY_GROUP, "Gateway", name),
        Ancestor::Service(name) => ("", "Service", name),
    };
    ParentRef {
        group: group.to_owned(),
        kind: kind.to_owned(),
        namespace: Some(name.namespace.clone()),
        name: name.name.clone(),
        section_name: None,
        port: None,
    }
}

/// > For any BackendTLSPolicy that does not take precedence, the
/// > implementation MUST ensure the `Accepted` Condition is set to
/// > `status: False`, with Reason `Conflicted`.
///
/// It is so if there is one such target among several; the others keep what the policy says.
fn accepted(node: &PolicyNode, ancestor: &AncestorNode) -> Verdict {
    let conflicted = |fault: &&TargetFault| matches!(fault, TargetFault::Conflicted { .. });
    if let Some(first) = ancestor.faults.iter().find(conflicted).or_else(|| ancestor.faults.first()) {
        let reason = if conflicted(&first) { "Conflicted" } else { "TargetNotFound" };
        let more = if ancestor.decides { "; other targets have what the policy says" } else { "" };
        return Verdict::no(reason, format_args!("{}{more}", listed(ancestor.faults.iter())));
    }
    if let Some(fault) = &node.fault {
        return Verdict::no("Invalid", format_args!("{fault}; until then nothing is sent to its targets"));
    }
    if !node.authorities.is_readable && !node.authorities.faults.is_empty() {
        let kept = match node.authorities.bundles.is_empty() {
            true => "nothing is sent to its targets",
            false => "only a proxy that holds earlier ones sends anything to its targets",
        };
        let message = format_args!("none of its CA certificates can be used, see ResolvedRefs; until then {kept}");
        return Verdict::no("NoValidCACertificate", message);
    }
    let passed_on = "the Gateway passes TLS of clients on as it is, so that the policy changes nothing there";
    let notes = node.strange.iter().map(String::as_str).chain((!ancestor.matters).then_some(passed_on));
    Verdict::yes("Accepted").with(listed(notes.collect::<Vec<_>>().into_iter()))
}

/// A condition of ours, there only where it is true: the policy is carried out, and who is called does not take it.
fn refused(node: &PolicyNode, ancestor: &AncestorNode) -> Option<Verdict> {
    let concerned = !node.refused.is_empty() && node.fault.is_none() && ancestor.decides && ancestor.matters;
    concerned.then(|| {
        Verdict::yes("StrictMode").with(format_args!(
            "the policy goes before the TLS of the mesh, and pods behind its targets take nothing else, so that they refuse the connection: {}; remove the policy, or annotate the pods with isthmus.dev/mtls-ports (`8443=permissive`) or isthmus.dev/exclude-inbound-ports",
            listed(node.refused.iter())
        ))
    })
}

/// The first fault in the order of the object gives the reason.
fn resolved_refs(node: &PolicyNode) -> Verdict {
    let faults = &node.authorities.faults;
    match faults.first() {
        Some(BundleFault::Kind { .. }) => Verdict::no("InvalidKind", listed(faults.iter())),
        Some(_) => Verdict::no("InvalidCACertificateRef", listed(faults.iter())),
        None => Verdict::yes("ResolvedRefs"),
    }
}

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use isthmus_routing::{BackendTls, Roots};
    use serde_json::{Value, json};

    use crate::testing::{
        authority, base, bundle, edge, gateway_with, mesh_options, object, objects, options, plain_listener, route, shown,
        translated,
    };
    use crate::{Translation, translate};

    /// A policy of generation 4, created in this second, with these fields of `validation` besides a hostname.
    fn policy(name: &str, second: u32, targets: &Value, validation: &Value) -> Value {
        let metadata = json!({"generation": 4, "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")});
        let mut whole = json!({"hostname": "tls.example.com"});
        whole.as_object_mut().unwrap().extend(validation.as_object().unwrap().clone());
        let spec = json!({"targetRefs": targets, "validation": whole});
        object("gateway.networking.k8s.io/v1", "BackendTLSPolicy", "shop", name, metadata, spec)
    }

    fn target(name: &str, section: Option<&str>) -> Value {
        json!({"group": "", "kind": "Service", "name": name, "sectionName": section})
    }

    /// An authority by this name.
    fn by(name: &str) -> Value {
        json!({"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]})
    }

    /// These policies with `Gateway/shop/edge`, a route to ports `a` (443) and `b` (444) of Service `back`, and one to Service `gone`.
    fn world(policies: impl IntoIterator<Item = Value>) -> Translation {
        let ports =
            json!([{"name": "a", "port": 443}, {"name": "b", "port": 444}, {"name": "u", "port": 443, "protocol": "UDP"}]);
        let to = |name: &str, port: u16| json!({"name": name, "port": port});
        let rules = json!([{"backendRefs": [to("back", 443), to("back", 444), to("gone", 443)]}]);
        let own = [
            gateway_with(json!({"gatewayClassName": "isthmus", "listeners": plain_listener()})),
            route("HTTPRoute", "r", json!({"parentRefs": [{"name": "edge"}], "rules": rules})),
            object("v1", "Service", "shop", "back", json!({}), json!({"ports": ports})),
            object("v1", "Service", "shop", "unused", json!({}), json!({"ports": ports})),
            bundle("shop", "ca", Some(&authority())),
            bundle("shop", "bare", None),
        ];
        translated(own.into_iter().chain(policies))
    }

    /// Conditions of a policy for its only Gateway, with their messages.
    fn told(translation: &Translation, name: &str) -> (String, String) {
        let Some(status) = translation.statuses.backend_tls_policies.get(&NamespacedName::new("shop", name)) else {
            return ("no status".to_owned(), String::new());
        };
        let [ancestor] = status.ancestors.as_slice() else { panic!("{status:?}") };
        assert_eq!((ancestor.ancestor_ref.name.as_str(), ancestor.ancestor_ref.kind.as_str()), ("edge", "Gateway"));
        let messages: Vec<_> = ancestor.conditions.iter().map(|condition| condition.message.as_str()).collect();
        (shown(&ancestor.conditions, 4).join(" "), messages.join(" | "))
    }

    /// What is done on ports 443 and 444: the hostname, `refused`, or `plain`.
    fn done(translation: &Translation) -> [String; 2] {
        ["Service/shop/back:443", "Service/shop/back:444"].map(|key| {
            match &translation.snapshot.backends[&key.parse().unwrap()].tls {
                None => "plain".to_owned(),
                Some(BackendTls::Invalid) => "refused".to_owned(),
                Some(BackendTls::Verified(validation)) => {
                    let bundles = validation.roots.bundles().iter().map(|key| key.name.as_str());
                    let roots = if validation.roots == Roots::System {
                        "system".to_owned()
                    } else {
                        bundles.collect::<Vec<_>>().join("+")
                    };
                    format!("{} by {roots}", validation.hostname)
                }
            }
        })
    }

    #[test]
    fn in_the_mesh_the_service_with_the_route_is_the_ancestor_and_a_service_without_one_its_own() {
        let service = |name: &str| object("v1", "Service", "shop", name, json!({}), json!({"ports": [{"port": 443}]}));
        let to_back = json!([{"backendRefs": [{"name": "back", "port": 443}]}]);
        let route_of = |name: &str, parent: Value| route("HTTPRoute", name, json!({"parentRefs": [parent], "rules": to_back}));
        let list = [
            gateway_with(json!({"gatewayClassName": "isthmus", "listeners": plain_listener()})),
            service("back"),
            service("front"),
            bundle("shop", "ca", Some(&authority())),
            policy("p", 0, &json!([target("back", None)]), &by("ca")),
        ];
        let with = |routes: &[Value], options: &crate::Options| {
            let translation = translate(&objects(base().into_iter().chain(list.clone()).chain(routes.to_vec())), options);
            let status = translation.statuses.backend_tls_policies.get(&NamespacedName::new("shop", "p"));
            let ancestors = status.map_or(&[][..], |status| &status.ancestors).iter().map(|ancestor| {
                assert_eq!(shown(&ancestor.conditions, 4).join(" "), GOOD);
                format!("{}/{}", ancestor.ancestor_ref.kind, ancestor.ancestor_ref.name)
            });
            let tls =
                translation.snapshot.backends.get(&"Service/shop/back:443".parse().unwrap()).map(|backend| backend.tls.clone());
            (ancestors.collect::<Vec<_>>(), tls)
        };
        let of_front = route_of("s", json!({"group": "", "kind": "Service", "name": "front"}));
        let of_edge = route_of("g", json!({"name": "edge"}));
        let both = [of_front.clone(), of_edge];
        for (routes, options, expected) in [
            (&both[..0], options(), &[][..]),
            (&both[..1], options(), &[]),
            (&both, options(), &["Gateway/edge"]),
            (&both[..0], mesh_options(), &["Service/back"]),
            (&both[..1], mesh_options(), &["Service/back", "Service/front"]),
            (&both, mesh_options(), &["Gateway/edge", "Service/back", "Service/front"]),
        ] {
            let (ancestors, tls) = with(routes, &options);
            assert_eq!(ancestors, expected);
            assert_eq!(tls.is_some(), !expected.is_empty(), "{expected:?}");
            assert!(tls.is_none_or(|tls| matches!(tls, Some(BackendTls::Verified(_)))), "{expected:?}");
        }
    }

    const GOOD: &str = "Accepted=True/Accepted ResolvedRefs=True/ResolvedRefs";

    #[test]
    fn what_a_policy_asks_for() {
        let refs = |list: Value| json!({"caCertificateRefs": list});
        let map = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
        let invalid = "Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs";
        let lacks = "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidCACertificateRef";
        let good = "tls.example.com by ca";
        let san = |name: Value| json!({"caCertificateRefs": [map("ca")], "subjectAltNames": [name]});
        for (validation, conditions, message, expected) in [
            (by("ca"), GOOD, " | ", good),
            (json!({"wellKnownCACertificates": "System"}), GOOD, " | ", "tls.example.com by system"),
            (json!({"wellKnownCACertificates": "System", "caCertificateRefs": []}), GOOD, " | ", "tls.example.com by system"),
            (
                json!({"wellKnownCACertificates": "example.com/other"}),
                invalid,
                "validation.wellKnownCACertificates `example.com/other`",
                "refused",
            ),
            (json!({}), invalid, "validation has neither", "refused"),
            (
                json!({"wellKnownCACertificates": "System", "caCertificateRefs": [map("ca")]}),
                invalid,
                "validation has both",
                "refused",
            ),
            (
                json!({"hostname": "*.example.com", "wellKnownCACertificates": "System"}),
                invalid,
                "validation.hostname `*.example.com`",
                "refused",
            ),
            (
                json!({"hostname": "10.0.0.1", "wellKnownCACertificates": "System"}),
                invalid,
                "validation.hostname: `10.0.0.1` is not",
                "refused",
            ),
            (san(json!({"type": "Hostname", "hostname": "*.example.com"})), GOOD, " | ", good),
            (san(json!({"type": "URI", "uri": "spiffe://a/b"})), GOOD, " | ", good),
            (san(json!({"type": "URI"})), invalid, "validation.subjectAltNames[0] has no uri", "refused"),
            (
                san(json!({"type": "Hostname", "hostname": "a..b"})),
                invalid,
                "validation.subjectAltNames[0] `a..b` is not",
                "refused",
            ),
            (
                by("absent"),
                lacks,
                "none of its CA certificates can be used, see ResolvedRefs; until then nothing is sent",
                "refused",
            ),
            (
                by("bare"),
                lacks,
                "none of its CA certificates can be used, see ResolvedRefs; until then only a proxy",
                "tls.example.com by bare",
            ),
            (
                refs(json!([{"group": "invalid.io", "kind": "InvalidKind", "name": "x"}])),
                "Accepted=False/NoValidCACertificate ResolvedRefs=False/InvalidKind",
                "none of its CA certificates",
                "refused",
            ),
            (
                refs(json!([map("absent"), map("ca")])),
                "Accepted=True/Accepted ResolvedRefs=False/InvalidCACertificateRef",
                " | ConfigMap shop/absent does not exist",
                good,
            ),
        ] {
            let shown = validation.to_string();
            let translation = world([policy("p", 0, &json!([target("back", None)]), &validation)]);
            let (found, text) = told(&translation, "p");
            assert_eq!((found.as_str(), done(&translation)), (conditions, [expected; 2].map(str::to_owned)), "{shown} {text}");
            assert!(text.starts_with(message), "{shown}: {text}");
            let snapshot = &translation.snapshot;
            let bundles = snapshot.backends.values().flat_map(|backend| backend.bundles());
            for key in bundles {
                assert!(snapshot.bundles.contains_key(key) != snapshot.kept_bundles.contains(key), "{shown} {key}");
            }
        }
    }

    #[test]
    fn which_policy_decides() {
        let (whole, a, b) = (target("back", None), target("back", Some("a")), target("back", Some("b")));
        let named = |hostname: &str| json!({"hostname": hostname, "wellKnownCACertificates": "System"});
        let invalid = json!({"wellKnownCACertificates": "example.com/other"});
        let one = |name: &str, second, targets: &[&Value], validation: &Value| policy(name, second, &json!(targets), validation);
        let conflicted = "Accepted=False/Conflicted ResolvedRefs=True/ResolvedRefs";
        let not_found = "Accepted=False/TargetNotFound ResolvedRefs=True/ResolvedRefs";
        let (x, y) = (named("x.example"), named("y.example"));
        let by_system =
            |names: [&str; 2]| names.map(|name| if name.contains('.') { format!("{name} by system") } else { name.to_owned() });
        for (policies, expected, on_ports) in [
            (vec![one("p", 0, &[&a], &x)], vec![("p", GOOD)], ["x.example", "plain"]),
            (
                vec![one("p", 5, &[&whole], &x), one("q", 1, &[&whole], &y)],
                vec![("p", conflicted), ("q", GOOD)],
                ["y.example", "y.example"],
            ),
            (
                vec![one("p", 1, &[&whole], &x), one("q", 1, &[&whole], &y)],
                vec![("p", GOOD), ("q", conflicted)],
                ["x.example", "x.example"],
            ),
            (
                vec![one("p", 1, &[&whole], &x), one("q", 2, &[&a], &y)],
                vec![("p", GOOD), ("q", GOOD)],
                ["y.example", "x.example"],
            ),
            (
                vec![one("p", 1, &[&a], &invalid), one("q", 2, &[&a], &y), one("s", 2, &[&whole], &y)],
                vec![("p", "Accepted=False/Invalid ResolvedRefs=True/ResolvedRefs"), ("q", conflicted), ("s", GOOD)],
                ["refused", "y.example"],
            ),
            (
                vec![one("p", 1, &[&a], &x), one("q", 2, &[&a, &b], &y)],
                vec![("p", GOOD), ("q", conflicted)],
                ["x.example", "y.example"],
            ),
            (vec![one("p", 1, &[&target("back", Some("c"))], &x)], vec![("p", not_found)], ["plain", "plain"]),
            (vec![one("p", 1, &[&target("back", Some("u"))], &x)], vec![("p", not_found)], ["plain", "plain"]),
            (vec![one("p", 1, &[&target("gone", None)], &x)], vec![("p", not_found)], ["plain", "plain"]),
            (vec![one("p", 1, &[&target("unused", None)], &x)], vec![("p", "no status")], ["plain", "plain"]),
            (
                vec![one("p", 1, &[&json!({"group": "example.com", "kind": "Service", "name": "back"})], &x)],
                vec![("p", "no status")],
                ["plain", "plain"],
            ),
        ] {
            let translation = world(policies);
            let found: Vec<_> = expected.iter().map(|(name, _)| told(&translation, name)).collect();
            for ((name, conditions), (found, message)) in expected.iter().zip(&found) {
                assert_eq!(found, conditions, "{name}: {message}");
            }
            assert_eq!(done(&translation), by_system(on_ports), "{expected:?}");
        }
    }

    #[test]
    fn what_nobody_uses_is_not_read() {
        let translation = world([policy("p", 0, &json!([target("unused", None)]), &by("ca"))]);
        assert!(translation.references.is_empty() && translation.snapshot.bundles.is_empty());
        let translation = world([policy("p", 0, &json!([target("back", None)]), &by("ca"))]);
        assert_eq!(translation.references.iter().map(ToString::to_string).collect::<Vec<_>>(), ["ConfigMap/shop/ca"]);
        assert_eq!(translation.snapshot.of_gateway(&edge()).bundles.len(), 1);
    }

    #[test]
    fn the_message_tells_which_target_is_whose() {
        let targets =
            json!([target("back", Some("a")), target("back", Some("b")), {"group": "apps", "kind": "Pod", "name": "x"}]);
        let system = || json!({"wellKnownCACertificates": "System"});
        let translation =
            world([policy("first", 0, &json!([target("back", Some("a"))]), &system()), policy("second", 1, &targets, &system())]);
        assert_eq!(
            told(&translation, "second").1,
            "port `a` of Service shop/back is already the target of BackendTLSPolicy `first`, which is older or comes first by name; \
             remove one of the two; other targets have what the policy says | "
        );
        let translation = world([policy("second", 1, &targets, &system())]);
        assert_eq!(
            told(&translation, "second").1,
            "targetRefs[2] is passed over: Pod of group `apps` is not a kind of target that is supported; target a Service | "
        );
    }
}
