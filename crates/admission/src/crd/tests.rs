use serde_json::{Value, json};

use crate::{Finding, admit};

fn object(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": "a"}, "spec": spec})
}

/// Everything that is said of an HTTPRoute with these rules.
fn rules(rules: &Value) -> Vec<String> {
    says("HTTPRoute", &json!({"rules": rules}))
}

fn says(kind: &str, spec: &Value) -> Vec<String> {
    admit(object(kind, spec)).err().unwrap_or_default().iter().map(Finding::to_string).collect()
}

fn gateway(listeners: &Value) -> Value {
    json!({"gatewayClassName": "edge", "listeners": listeners})
}

#[test]
fn defaults_are_added() {
    let route = json!({"parentRefs": [{"name": "edge"}], "rules": [
        {"backendRefs": [{"name": "front", "port": 80}], "retry": {}},
        {"matches": [{}, {"headers": [{"name": "a", "value": "b"}], "path": {"value": "/x"}}]},
    ]});
    assert_eq!(
        admit(object("HTTPRoute", &route)).unwrap().object,
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "a", "namespace": "default", "generation": 1},
            "spec": {
                "parentRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"}],
                "rules": [
                    {
                        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                        "backendRefs": [{"group": "", "kind": "Service", "name": "front", "port": 80, "weight": 1}],
                        "retry": {"attempts": 1},
                    },
                    {"matches": [
                        {"path": {"type": "PathPrefix", "value": "/"}},
                        {"headers": [{"type": "Exact", "name": "a", "value": "b"}], "path": {"type": "PathPrefix", "value": "/x"}},
                    ]},
                ],
            },
        })
    );
    let empty = admit(object("HTTPRoute", &json!({}))).unwrap().object;
    assert_eq!(empty["spec"]["rules"], json!([{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}]));
}

#[test]
fn a_listener_set_is_held_to_its_crd() {
    let set = |listeners: Value| json!({"parentRef": {"name": "edge"}, "listeners": listeners});
    let http = json!({"name": "http", "port": 80, "protocol": "HTTP"});
    let admitted = admit(object("ListenerSet", &set(json!([http])))).unwrap();
    let parent = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
    assert_eq!(admitted.object["spec"]["parentRef"], parent);
    assert_eq!(admitted.object["spec"]["listeners"][0]["allowedRoutes"], json!({"namespaces": {"from": "Same"}}));
    assert_eq!(admitted.warnings, []);
    for (listeners, expected) in [
        (json!([]), "spec.listeners: Invalid value: 0: spec.listeners in body should have at least 1 items"),
        (json!([http, http]), "spec.listeners[1]: Duplicate value: {\"name\":\"http\"}"),
        (
            json!([http, {"name": "other", "port": 80, "protocol": "HTTP"}]),
            "spec.listeners: Invalid value: \"array\": Combination of port, protocol and hostname must be unique for each listener",
        ),
        (
            json!([{"name": "http", "port": 80, "protocol": "HTTP", "tls": {"certificateRefs": [{"name": "c"}]}}]),
            "spec.listeners: Invalid value: \"array\": tls must not be specified for protocols ['HTTP', 'TCP', 'UDP']",
        ),
        (json!([{"name": "http", "protocol": "HTTP"}]), "spec.listeners[0].port: Required value"),
    ] {
        let said = says("ListenerSet", &set(listeners));
        assert!(said.iter().any(|line| line == expected), "{expected}: {said:?}");
    }
}

#[test]
fn strangers_are_dropped_with_a_warning() {
    let mut route =
        object("HTTPRoute", &json!({"hostname": "a", "hostnames": null, "rules": [{"matches": [{"pth": {}}], "name": "x"}]}));
    route["data"] = json!(1);
    route["status"] = json!({"parents": []});
    route["metadata"]["nam"] = json!("b");
    let admitted = admit(route).unwrap();
    let fields: Vec<&str> = admitted.warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(fields, ["metadata.nam", "data", "spec.hostname", "spec.rules[0].matches[0].pth"]);
    assert_eq!(admitted.object.get("data"), None);
    assert_eq!(admitted.object.get("status"), None);
    assert_eq!(
        admitted.object["spec"],
        json!({"rules": [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "name": "x"}]})
    );
}

#[test]
fn shapes_are_checked() {
    for (kind, spec, expected) in [
        ("HTTPRoute", json!("x"), "spec: Invalid value: \"string\": spec in body must be of type object: \"string\""),
        (
            "HTTPRoute",
            json!({"hostnames": "x"}),
            "spec.hostnames: Invalid value: \"string\": spec.hostnames in body must be of type array: \"string\"",
        ),
        (
            "HTTPRoute",
            json!({"hostnames": ["a", "-b"]}),
            "spec.hostnames[1]: Invalid value: \"-b\": spec.hostnames[1] in body should match \
             '^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$'",
        ),
        ("HTTPRoute", json!({"hostnames": ["a".repeat(254)]}), "spec.hostnames[0]: Too long: may not be more than 253 bytes"),
        ("HTTPRoute", json!({"hostnames": vec!["a"; 17]}), "spec.hostnames: Too many: 17: must have at most 16 items"),
        ("HTTPRoute", json!({"parentRefs": [{}]}), "spec.parentRefs[0].name: Required value"),
        (
            "HTTPRoute",
            json!({"parentRefs": [{"name": ""}]}),
            "spec.parentRefs[0].name: Invalid value: \"\": spec.parentRefs[0].name in body should be at least 1 chars long",
        ),
        (
            "HTTPRoute",
            json!({"parentRefs": [{"name": "a", "port": 0}]}),
            "spec.parentRefs[0].port: Invalid value: 0: spec.parentRefs[0].port in body should be greater than or equal to 1",
        ),
        (
            "HTTPRoute",
            json!({"parentRefs": [{"name": "a", "port": 70000}]}),
            "spec.parentRefs[0].port: Invalid value: 70000: spec.parentRefs[0].port in body should be less than or equal to 65535",
        ),
        (
            "HTTPRoute",
            json!({"parentRefs": [{"name": "a", "port": "80"}]}),
            "spec.parentRefs[0].port: Invalid value: \"string\": spec.parentRefs[0].port in body must be of type integer: \"string\"",
        ),
        (
            "HTTPRoute",
            json!({"rules": [{"matches": [{"method": "GOT"}]}]}),
            "spec.rules[0].matches[0].method: Unsupported value: \"GOT\": supported values: \"GET\", \"HEAD\", \"POST\", \"PUT\", \
             \"DELETE\", \"CONNECT\", \"OPTIONS\", \"TRACE\", \"PATCH\"",
        ),
        ("HTTPRoute", json!({"rules": [{"retry": {"codes": [503, 503]}}]}), "spec.rules[0].retry.codes[1]: Duplicate value: 503"),
        (
            "HTTPRoute",
            json!({"rules": [{"matches": [{"headers": [{"name": "a", "value": "b"}, {"name": "a", "value": "c"}]}]}]}),
            "spec.rules[0].matches[0].headers[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        ("Gateway", gateway(&json!([])), "spec.listeners: Invalid value: 0: spec.listeners in body should have at least 1 items"),
        (
            "Gateway",
            json!({"gatewayClassName": "edge", "listeners": [{"name": "a", "port": 80, "protocol": "HTTP"}], "addresses": [{"value": "1.2.3"}]}),
            "spec.addresses[0]: Invalid value: \"object\": spec.addresses[0] in body must validate one and only one schema (oneOf). Found \
             none valid",
        ),
        ("GatewayClass", json!({}), "spec.controllerName: Required value"),
        (
            "ReferenceGrant",
            json!({"from": [], "to": [{"group": "", "kind": "Secret"}]}),
            "spec.from: Invalid value: 0: spec.from in body should have at least 1 items",
        ),
    ] {
        let said = says(kind, &spec);
        assert_eq!(said.first().map(String::as_str), Some(expected), "{spec}");
    }
    let mut route = object("HTTPRoute", &json!({}));
    route.as_object_mut().unwrap().remove("spec");
    assert_eq!(admit(route).unwrap_err()[0].to_string(), "spec: Required value");
}

#[test]
fn rules_wait_for_the_shape() {
    let slashless = json!({"matches": [{"path": {"value": "x"}, "method": "GET"}]});
    let said = rules(&json!([slashless, {"name": 5}]));
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].starts_with("some validation rules were not checked"), "{}", said[1]);
    let said = rules(&json!([slashless]));
    assert_eq!(
        said,
        [
            "spec.rules[0].matches[0].path: Invalid value: \"object\": value must be an absolute path and start with '/' when type one of \
          ['Exact', 'PathPrefix']"
        ]
    );
}

#[test]
fn rules_are_checked() {
    let path = |value: &str| json!([{"matches": [{"path": {"type": "Exact", "value": value}}]}]);
    let redirect = json!({"type": "RequestRedirect", "requestRedirect": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}}});
    let name = |name: &str| json!({"name": name});
    for (rules_, expected) in [
        (path("/a//b"), "must not contain '//'"),
        (path("/a/./b"), "must not contain '/./'"),
        (path("/a/.."), "must not end with '/..'"),
        (path("/a b"), "must only contain valid characters"),
        (json!([name("x"), name("x")]), "Rule name must be unique within the route"),
        (
            json!([{"timeouts": {"request": "1s", "backendRequest": "1m"}}]),
            "backendRequest timeout cannot be longer than request timeout",
        ),
        (json!([{"backendRefs": [{"name": "a"}]}]), "Must have port for Service reference"),
        (json!([{"filters": [{"type": "URLRewrite"}]}]), "filter.urlRewrite must be specified for URLRewrite filter.type"),
        (
            json!([{"filters": [redirect.clone()], "matches": [{"path": {"type": "Exact", "value": "/"}}]}]),
            "exactly one PathPrefix match",
        ),
        (
            json!([{"filters": [redirect.clone()], "backendRefs": [{"name": "a", "port": 1}]}]),
            "RequestRedirect filter must not be used",
        ),
        (json!([{"filters": [{"type": "CORS", "cors": {"allowMethods": ["*", "GET"]}}]}]), "cannot contain '*' alongside"),
        (json!(vec![json!({"matches": vec![json!({}); 33]}); 4]), "total number of matches across all rules"),
    ] {
        let said = rules(&rules_);
        assert!(said.iter().any(|said| said.contains(expected)), "{rules_}: {said:?}");
    }
    for fine in [
        path("/a/%7Eb"),
        json!([name("x"), name("y"), {}]),
        json!([{"timeouts": {"request": "0s", "backendRequest": "1m"}}, {"timeouts": {"request": "1m", "backendRequest": "60s"}}]),
        json!([{"backendRefs": [{"name": "a", "group": "example.com", "kind": "Bucket"}]}]),
        json!([{"filters": [redirect], "matches": [{"path": {"value": "/a"}}]}]),
        json!(vec![json!({"matches": vec![json!({}); 32]}); 4]),
    ] {
        assert_eq!(rules(&fine), [""; 0], "{fine}");
    }
}

#[test]
fn rules_of_other_kinds_are_checked() {
    let method = |method: Value| json!({"rules": [{"matches": [{"method": method}]}]});
    let listener = |name: &str, protocol: &str, tls: Value| json!({"name": name, "port": 443, "protocol": protocol, "tls": tls});
    for (kind, spec, expected) in [
        ("GRPCRoute", method(json!({"type": "Exact"})), "One or both of 'service' or 'method' must be specified"),
        ("GRPCRoute", method(json!({"service": "a/b"})), "service must only contain valid characters"),
        ("GRPCRoute", method(json!({"service": "Foo.bar", "method": "1x"})), "method must only contain valid characters"),
        (
            "Gateway",
            gateway(&json!([listener("a", "HTTP", json!({"mode": "Passthrough"}))])),
            "tls must not be specified for protocols",
        ),
        (
            "Gateway",
            gateway(&json!([listener("a", "HTTPS", json!({"mode": "Terminate"}))])),
            "certificateRefs or options must be specified",
        ),
        ("Gateway", gateway(&json!([listener("a", "HTTP", json!(null)), listener("a", "TCP", json!(null))])), "Duplicate value"),
        (
            "Gateway",
            gateway(&json!([listener("a", "HTTP", json!(null)), listener("b", "HTTP", json!(null))])),
            "Combination of port, protocol and hostname must be unique for each listener",
        ),
        (
            "HTTPRoute",
            json!({"parentRefs": [{"name": "a", "namespace": "b"}, {"name": "a", "namespace": "b", "sectionName": "c"}]}),
            "sectionName must be specified when parentRefs includes 2 or more references to the same parent",
        ),
    ] {
        let said = says(kind, &spec);
        assert!(said.iter().any(|said| said.contains(expected)), "{spec}: {said:?}");
    }
    let annotated = |key: &str| {
        let mut spec = gateway(&json!([listener("a", "HTTP", json!(null))]));
        spec["infrastructure"] = json!({"annotations": {key: "x"}});
        says("Gateway", &spec)
    };
    assert_eq!(annotated("example.com/a"), [""; 0]);
    assert_eq!(annotated("a b").len(), 1);
    // `self == oldSelf` is about a change, and there is nothing before.
    assert_eq!(says("GatewayClass", &json!({"controllerName": "isthmus.dev/gateway-controller"})), [""; 0]);
    let namespaces = json!({"parentRefs": [{"name": "a", "namespace": "b"}, {"name": "a", "namespace": "c"}]});
    assert_eq!(says("HTTPRoute", &namespaces), [""; 0]);
}

#[test]
fn stream_routes_are_held_to_their_crds() {
    let defaulted = json!({"group": "", "kind": "Service", "name": "db", "port": 5432, "weight": 1});
    for kind in ["TLSRoute", "TCPRoute", "UDPRoute"] {
        let spec = |rules: &Value| {
            let mut spec = json!({"parentRefs": [{"name": "edge"}], "rules": rules});
            if kind == "TLSRoute" {
                spec["hostnames"] = json!(["db.example.com"]);
            }
            spec
        };
        let admitted = admit(object(kind, &spec(&json!([{"backendRefs": [{"name": "db", "port": 5432}]}])))).unwrap();
        assert_eq!(admitted.object["spec"]["rules"], json!([{"backendRefs": [defaulted]}]), "{kind}");
        assert_eq!(admitted.object["spec"]["parentRefs"][0]["kind"], "Gateway");
        assert_eq!(admitted.warnings, []);
        let backend = json!({"name": "db", "port": 5432});
        for (rules, expected) in [
            (json!([]), "spec.rules: Invalid value: 0: spec.rules in body should have at least 1 items"),
            (
                json!([{"backendRefs": [backend]}, {"backendRefs": [backend]}]),
                "spec.rules: Too many: 2: must have at most 1 item",
            ),
            (json!([{}]), "spec.rules[0].backendRefs: Required value"),
            (
                json!([{"backendRefs": []}]),
                "spec.rules[0].backendRefs: Invalid value: 0: spec.rules[0].backendRefs in body should have at least 1 items",
            ),
            (
                json!([{"backendRefs": [{"name": "db"}]}]),
                "spec.rules[0].backendRefs[0]: Invalid value: \"object\": Must have port for Service reference",
            ),
        ] {
            let said = says(kind, &spec(&rules));
            assert!(said.iter().any(|line| line.starts_with(expected)), "{kind} {rules}: {said:?}");
        }
    }
    let tls = |hostnames: Value| json!({"hostnames": hostnames, "rules": [{"backendRefs": [{"name": "db", "port": 5432}]}]});
    for (hostnames, expected) in [
        (json!(null), "spec.hostnames: Required value"),
        (json!([]), "should have at least 1 items"),
        (json!(["192.0.2.1"]), "Hostnames cannot contain an IP"),
        (json!(["a_b.example"]), "Hostnames must be valid based on RFC-1123"),
        (json!(["a.*.example"]), "Wildcards on hostnames must be the first label"),
    ] {
        let said = says("TLSRoute", &tls(hostnames.clone()));
        assert!(said.iter().any(|line| line.contains(expected)), "{hostnames}: {said:?}");
    }
    assert_eq!(says("TLSRoute", &tls(json!(["*.example.com", "a.example.com"]))), [""; 0]);
}

#[test]
fn a_backend_tls_policy_is_held_to_its_crd() {
    let target = json!({"group": "", "kind": "Service", "name": "a"});
    let validation = json!({"hostname": "a.example", "wellKnownCACertificates": "System"});
    let with = |field: &str, value: Value| {
        let mut spec = json!({"targetRefs": [target], "validation": validation});
        *spec.pointer_mut("/validation").unwrap() = validation.clone();
        let (parent, name) = field.rsplit_once('/').unwrap();
        spec.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(name.to_owned(), value);
        spec
    };
    let bundle = json!([{"group": "", "kind": "ConfigMap", "name": "ca"}]);
    let named = |section: &str| json!({"group": "", "kind": "Service", "name": "a", "sectionName": section});
    for fine in [
        with("/options", json!({"a/b": "c"})),
        with("/targetRefs", json!([named("x"), named("y")])),
        with(
            "/validation/subjectAltNames",
            json!([{"type": "URI", "uri": "spiffe://a/b"}, {"type": "Hostname", "hostname": "b.example"}]),
        ),
        json!({"targetRefs": [target], "validation": {"hostname": "a.example", "caCertificateRefs": bundle}}),
    ] {
        assert_eq!(says("BackendTLSPolicy", &fine), [""; 0], "{fine}");
    }
    for (spec, expected) in [
        (with("/targetRefs", json!([])), "should have at least 1 items"),
        (with("/targetRefs", json!([target, named("x")])), "sectionName must be specified when targetRefs includes 2 or more"),
        (with("/targetRefs", json!([named("x"), named("x")])), "sectionName must be unique when targetRefs includes 2 or more"),
        (with("/validation/caCertificateRefs", bundle.clone()), "must not contain both CACertificateRefs and WellKnown"),
        (
            json!({"targetRefs": [target], "validation": {"hostname": "a.example"}}),
            "must specify either CACertificateRefs or WellKnownCACertificates",
        ),
        (
            json!({"targetRefs": [target], "validation": {"wellKnownCACertificates": "System"}}),
            "spec.validation.hostname: Required value",
        ),
        (with("/validation/hostname", json!("*.example")), "spec.validation.hostname"),
        (with("/validation/subjectAltNames", json!([{"type": "URI"}])), "must contain URI, if Type is set to URI"),
        (with("/validation/subjectAltNames", json!([{"type": "IP"}])), "Unsupported value: \"IP\""),
        (
            with("/validation/subjectAltNames", json!([{"type": "Hostname", "hostname": "a", "uri": "spiffe://a"}])),
            "must not contain URI, if Type is not set to URI",
        ),
    ] {
        let said = says("BackendTLSPolicy", &spec);
        assert!(said.iter().any(|line| line.contains(expected)), "{expected}: {said:?}");
    }
}

#[test]
fn gateway_parameters_are_held_to_our_own_crd() {
    let of = |spec: Value| json!({"apiVersion": "isthmus.dev/v1alpha1", "kind": "GatewayParameters", "metadata": {"name": "a"}, "spec": spec});
    let affinity = json!({"nodeAffinity": {"preferred": [{"weight": 1}]}});
    let fine = json!({
        "replicas": null, "clients": {"trustedHops": 2}, "podDisruptionBudget": {"minAvailable": "50%"},
        "resources": {"requests": {"cpu": "100m", "memory": 1}}, "affinity": affinity, "tolerations": [{"tolerationSeconds": 60}],
        "addressPools": ["192.0.2.0/28"], "nodeSelector": {"zone": "a"}, "topologySpreadConstraints": [{"maxSkew": 1}], "hops": 1,
    });
    let admitted = admit(of(fine.clone())).unwrap();
    assert_eq!(admitted.object["metadata"], json!({"name": "a", "namespace": "default", "generation": 1}));
    let mut expected = fine;
    expected.as_object_mut().unwrap().retain(|field, _| field != "replicas" && field != "hops");
    assert_eq!(admitted.object["spec"], expected, "nulls and strangers go, but not where strangers are kept");
    let warned: Vec<&str> = admitted.warnings.iter().map(|warning| warning.field.as_str()).collect();
    assert_eq!(warned, ["spec.hops"]);
    for (spec, expected) in [
        (json!({"clients": {"trustedHops": 17}}), "spec.clients.trustedHops: Invalid value: 17: "),
        (json!({"clients": {"proxyProtocol": "v1"}}), "spec.clients.proxyProtocol: Unsupported value: \"v1\": "),
        (json!({"tolerations": [{"tolerationSeconds": 9_300_000_000_000_000_000_u64}]}), "must be of type int64"),
        (
            json!({"podDisruptionBudget": {"minAvailable": true}}),
            "spec.podDisruptionBudget.minAvailable in body must be of type integer,string: \"boolean\"",
        ),
        (json!({"replicas": 2, "autoscaling": {}}), "set replicas or autoscaling, not both"),
        (Value::Null, "spec: Required value"),
    ] {
        let said: Vec<String> = admit(of(spec)).unwrap_err().iter().map(Finding::to_string).collect();
        assert!(said.iter().any(|line| line.contains(expected)), "{expected}: {said:?}");
    }
}

#[test]
fn what_an_export_has_stays() {
    let mut class = object("GatewayClass", &json!({"controllerName": "example.com/x"}));
    class["apiVersion"] = json!("gateway.networking.k8s.io/v1beta1");
    class["metadata"] =
        json!({"name": "a", "namespace": "dropped", "generation": 7, "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z"});
    let metadata = admit(class).unwrap().object["metadata"].take();
    assert_eq!(metadata, json!({"name": "a", "generation": 7, "uid": "u", "creationTimestamp": "2024-01-01T00:00:00Z"}));
}

#[test]
fn what_is_no_object_is_refused() {
    for (value, expected) in [
        (json!(null), ": Invalid value: null"),
        (json!([]), ": Invalid value: []"),
        (json!({"kind": "Service"}), "apiVersion: Required value"),
        (json!({"apiVersion": "v1"}), "kind: Required value"),
        (json!({"apiVersion": 1, "kind": "Service"}), "apiVersion: Required value"),
    ] {
        let fault = &admit(value.clone()).unwrap_err()[0];
        assert!(format!("{}: {}", fault.field, fault.message).starts_with(expected), "{value}: {fault}");
    }
}
