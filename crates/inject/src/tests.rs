use std::cell::RefCell;

use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings {
        version: "0.1.0".into(),
        proxy: Image { name: "docker.io/isthmus/mesh-proxy:0.1.0".into(), pull_policy: "IfNotPresent".into() },
        redirect: Image { name: "docker.io/isthmus/mesh-redirect:0.1.0".into(), pull_policy: "IfNotPresent".into() },
        controller: "isthmus-controller.isthmus-system.svc:15410".into(),
        ca: "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n".into(),
        log: "info".into(),
        resources: json!({ "requests": { "cpu": "10m", "memory": "32Mi" } }),
        kubernetes: Some("v1.31.0".parse().unwrap()),
    }
}

fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap()
}

/// The least that is injected, with something besides.
fn pod(metadata: Value, spec: Value) -> Value {
    let mut all = json!({ "containers": [{ "name": "app" }] });
    if let Value::Object(fields) = spec {
        all.as_object_mut().unwrap().extend(fields);
    }
    Value::Object([("kind".into(), "Pod".into()), ("metadata".into(), metadata), ("spec".into(), all)].into_iter().collect())
}

fn injected(pod: &Value) -> Value {
    match inject(pod, &enabled_namespace(), &settings()) {
        Outcome::Patched(pod) => pod,
        other => panic!("{other:?}"),
    }
}

macro_rules! golden {
    ($($name:literal),+) => {
        [$(($name, include_str!(concat!("golden/", $name, ".in.yaml")), include_str!(concat!("golden/", $name, ".out.yaml")))),+]
    };
}

/// A file that is empty or no longer right is printed as it should be.
#[test]
fn golden_pods() {
    let mut wrong = String::new();
    for (name, given, expected) in golden!["deployment", "job", "containers", "security"] {
        let actual = injected(&yaml(given));
        let text = serde_saphyr::to_string(&actual).unwrap();
        assert_eq!(yaml(&text), actual, "{name}: what is printed says the same");
        if expected.trim().is_empty() || yaml(expected) != actual {
            wrong.push_str(&format!("===== {name}.out.yaml\n{text}"));
        }
    }
    assert!(wrong.is_empty(), "these are now so:\n{wrong}");
}

#[test]
fn a_patch_makes_the_injected_pod() {
    for given in [include_str!("golden/deployment.in.yaml"), include_str!("golden/containers.in.yaml")] {
        let before = yaml(given);
        let after = injected(&before);
        let patch = patch(&before, &after);
        let mut patched = before.clone();
        for operation in patch.as_array().unwrap() {
            assert_eq!(operation["op"], "add");
            let (parent, name) = operation["path"].as_str().unwrap().rsplit_once('/').unwrap();
            patched.pointer_mut(parent).unwrap()[name] = operation["value"].clone();
        }
        assert_eq!(patched, after);
        let paths: Vec<_> = patch.as_array().unwrap().iter().map(|operation| operation["path"].as_str().unwrap()).collect();
        assert_eq!(paths, ["/metadata/annotations", "/spec/containers", "/spec/initContainers", "/spec/volumes"]);
    }
    let before = json!({ "metadata": {}, "spec": { "a": 1 } });
    assert_eq!(patch(&before, &before), json!([]));
    let after = json!({ "metadata": {}, "spec": { "a": 1, "b/~": 2 } });
    assert_eq!(patch(&before, &after), json!([{ "op": "add", "path": "/spec/b~1~0", "value": 2 }]));
}

#[test]
fn an_injected_pod_stays_as_it_is() {
    let once = injected(&yaml(include_str!("golden/deployment.in.yaml")));
    assert_eq!(inject(&once, &enabled_namespace(), &settings()), Outcome::Skipped(Skip::AlreadyInjected));
}

#[test]
fn who_decides() {
    let labelled = |value: &str| json!({ "labels": { (INJECT): value } });
    let annotated = |value: &str| json!({ "annotations": { (INJECT): value } });
    let both = |label: &str, annotation: &str| json!({ "labels": { (INJECT): label }, "annotations": { (INJECT): annotation } });
    let (enabled, other) = (enabled_namespace(), json!({ "metadata": { "labels": { (INJECT): "disabled" } } }));
    let choice = |text: &str| Outcome::Refused(Refusal::Choice(text.into()));
    for (namespace, metadata, expected) in [
        (&enabled, json!({}), None),
        (&other, json!({}), Some(Outcome::Skipped(Skip::NotAsked))),
        (&Value::Null, json!({}), Some(Outcome::Skipped(Skip::NotAsked))),
        (&other, labelled("enabled"), None),
        (&other, annotated("enabled"), None),
        (&enabled, labelled("disabled"), Some(Outcome::Skipped(Skip::OptedOut))),
        (&enabled, annotated("disabled"), Some(Outcome::Skipped(Skip::OptedOut))),
        (&enabled, both("disabled", "disabled"), Some(Outcome::Skipped(Skip::OptedOut))),
        (&enabled, both("enabled", "disabled"), Some(Outcome::Refused(Refusal::Contradiction))),
        (&enabled, labelled("yes"), Some(choice("yes"))),
        (&other, annotated(""), Some(choice(""))),
    ] {
        let outcome = inject(&pod(metadata.clone(), json!({})), namespace, &settings());
        match expected {
            None => assert!(matches!(outcome, Outcome::Patched(_)), "{metadata}: {outcome:?}"),
            Some(expected) => assert_eq!(outcome, expected, "{metadata}"),
        }
    }
}

#[test]
fn pods_that_stay_as_they_are() {
    for (metadata, spec, expected) in [
        (json!({}), json!({ "hostNetwork": true }), Skip::HostNetwork),
        (json!({ "annotations": { "kubernetes.io/config.mirror": "x" } }), json!({}), Skip::Static),
        (json!({}), json!({ "os": { "name": "windows" } }), Skip::Windows),
        (json!({ "labels": { "app.kubernetes.io/name": "isthmus-gateway" } }), json!({}), Skip::Gateway),
    ] {
        let outcome = inject(&pod(metadata, spec), &enabled_namespace(), &settings());
        assert_eq!(outcome, Outcome::Skipped(expected));
    }
}

#[test]
fn pods_that_are_refused() {
    let note = |key: &str, value: &str| json!({ "annotations": { (key): value } });
    let app = |container: Value| json!({ "containers": [container] });
    for (metadata, spec, expected) in [
        (json!({}), json!({ "containers": [] }), "the pod has no spec with containers"),
        (json!({}), json!({ "securityContext": { "runAsUser": 15420 } }), "the pod (spec.securityContext) runs as uid 15420"),
        (
            json!({}),
            app(json!({ "name": "app", "securityContext": { "runAsUser": 15420 } })),
            "container `app` runs as uid 15420",
        ),
        (
            json!({}),
            json!({ "initContainers": [{ "name": "first", "securityContext": { "runAsUser": 15420 } }] }),
            "container `first` runs as uid 15420",
        ),
        (
            json!({}),
            app(json!({ "name": "app", "ports": [{ "containerPort": 15422 }] })),
            "container `app` has the port 15422, and 15421, 15422 and 15423 are the sidecar's",
        ),
        (json!({}), app(json!({ "name": "isthmus-proxy" })), "the container name `isthmus-proxy` is the injector's"),
        (json!({}), json!({ "volumes": [{ "name": "isthmus-token" }] }), "the volume name `isthmus-token` is the injector's"),
        (json!({}), app(json!({ "name": "istio-proxy" })), "the pod has a sidecar of another mesh (container `istio-proxy`)"),
        (note(INJECTED, "0.1.0"), json!({}), "only the injector sets the annotation `isthmus.dev/injected`"),
        (json!({}), json!({ "dnsPolicy": "Default" }), "with `dnsPolicy: Default` the sidecar cannot find its controller"),
        (
            json!({}),
            app(json!({ "name": "app", "livenessProbe": { "httpGet": { "port": "web" } } })),
            "the livenessProbe of container `app` is for the port `web`, and the container has no port of that name",
        ),
        (
            json!({}),
            app(json!({ "name": "app", "livenessProbe": { "tcpSocket": { "port": 0 } } })),
            "the livenessProbe of container `app` is for the port `0`",
        ),
        (
            json!({}),
            app(json!({ "name": "app", "livenessProbe": { "httpGet": { "path": "/probe/0", "port": 15423 } } })),
            "container `app` has the port 15423, and 15421, 15422 and 15423 are the sidecar's",
        ),
        (
            note("isthmus.dev/exclude-outbound-ports", "80,web"),
            json!({}),
            "the annotation `isthmus.dev/exclude-outbound-ports: 80,web` cannot be read: `web` is not a port from 1 to 65535",
        ),
        (note("isthmus.dev/exclude-inbound-ports", "80,"), json!({}), "`` is not a port from 1 to 65535"),
        (note("isthmus.dev/exclude-outbound-cidrs", "10.0.0.0/33"), json!({}), "`10.0.0.0/33` is not a CIDR such as 10.0.0.0/8"),
        (note("isthmus.dev/proxy-threads", "0"), json!({}), "`0` is not a number of threads from 1 to 1024"),
        (note("isthmus.dev/mtls", "Strict"), json!({}), "`Strict` is neither strict nor permissive"),
        (note("isthmus.dev/mtls-ports", "80=strict,81"), json!({}), "`81` is not PORT=strict or PORT=permissive"),
        (note("isthmus.dev/mtls-ports", "80=off"), json!({}), "`off` is neither strict nor permissive"),
    ] {
        match inject(&pod(metadata, spec), &enabled_namespace(), &settings()) {
            Outcome::Refused(refusal) => assert!(refusal.to_string().contains(expected), "{refusal}\nnot: {expected}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[test]
fn old_versions_of_kubernetes_are_refused() {
    for (version, refused) in
        [("v1.28.15", true), ("1.29", false), ("1.30+", false), ("2.0", false), ("v1.35.0-alpha.1+x", false)]
    {
        let settings = Settings { kubernetes: Some(version.parse().unwrap()), ..settings() };
        let outcome = inject(&pod(json!({}), json!({})), &enabled_namespace(), &settings);
        assert_eq!(matches!(outcome, Outcome::Refused(Refusal::Kubernetes(_))), refused, "{version}");
    }
    for text in ["", "1", "one.two", "1.x", "v"] {
        assert!(text.parse::<KubernetesVersion>().is_err(), "{text}");
    }
}

#[test]
fn annotations_that_are_taken() {
    let annotations = json!({
        "isthmus.dev/mtls": "strict",
        "isthmus.dev/mtls-ports": "8080=strict, 9090=permissive",
        "isthmus.dev/exclude-outbound-ports": "",
        "isthmus.dev/exclude-outbound-cidrs": " 10.1.2.3/8 ,192.0.2.1, fd00::1/8",
        "isthmus.dev/proxy-threads": "3",
    });
    let pod = injected(&pod(json!({ "annotations": annotations }), json!({})));
    let args = json!(["redirect", "--exclude-outbound-cidrs=10.0.0.0/8,192.0.2.1/32,fd00::/8"]);
    assert_eq!(pod["spec"]["initContainers"][0]["args"], args);
    let variables = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    assert!(variables.contains(&json!({ "name": "ISTHMUS_THREADS", "value": "3" })), "{variables:?}");
}

#[test]
fn a_scrape_needs_a_port() {
    let with = |port: Option<&str>, ports: Value| {
        let mut annotations = json!({ "prometheus.io/scrape": "true" });
        annotations.as_object_mut().unwrap().extend(port.map(|port| ("prometheus.io/port".to_owned(), port.into())));
        pod(json!({ "annotations": annotations }), json!({ "containers": [{ "name": "app", "ports": ports }] }))
    };
    let (one, two) = (json!([{ "containerPort": 1 }]), json!([{ "containerPort": 1 }, { "containerPort": 2 }]));
    for (pod, expected) in [
        (with(Some("9"), two.clone()), Some(9)),
        (with(None, one), Some(1)),
        (with(None, two), None),
        (with(None, json!([])), None),
        (with(Some("metrics"), json!([])), None),
        (with(Some("15423"), json!([])), None),
    ] {
        let mut patched = pod.clone();
        let asked = scrape::rewrite(&mut patched);
        assert_eq!(asked.as_ref().map(|asked| asked["port"].as_u64().unwrap()), expected, "{pod}");
        assert_eq!(patched == pod, expected.is_none(), "{pod}");
    }
}

#[test]
fn templates_of_any_kind() {
    let template = json!({ "metadata": {}, "spec": { "containers": [{ "name": "app" }] } });
    let namespace = enabled_namespace();
    for (object, at) in [
        (json!({ "kind": "Deployment", "spec": { "template": template } }), "/spec/template"),
        (json!({ "kind": "Rollout", "spec": { "template": template } }), "/spec/template"),
        (
            json!({ "kind": "CronJob", "spec": { "jobTemplate": { "spec": { "template": template } } } }),
            "/spec/jobTemplate/spec/template",
        ),
        (json!({ "kind": "PodTemplate", "template": template }), "/template"),
    ] {
        let Some(Outcome::Patched(patched)) = inject_object(&object, &namespace, &settings()) else { panic!("{object}") };
        assert_eq!(patched.pointer(at), Some(&injected(&template)));
        assert_eq!(patched["kind"], object["kind"]);
    }
    for object in
        [json!({ "kind": "Service", "spec": {} }), json!({ "kind": "Deployment", "spec": { "template": {} } }), json!(1)]
    {
        assert_eq!(inject_object(&object, &namespace, &settings()), None, "{object}");
    }
}

/// Whatever stands where something else is expected: no panic, and what is not ours stays.
#[test]
fn odd_shapes_do_no_harm() {
    let odd = [Value::Null, json!(1), json!("x"), json!([]), json!([1]), json!({}), json!([{ "name": 1 }])];
    let tried = RefCell::new(0);
    let try_all = |make: &dyn Fn(&Value) -> Value| {
        for value in &odd {
            let _ = inject(&make(value), &enabled_namespace(), &settings());
            *tried.borrow_mut() += 1;
        }
    };
    try_all(&Value::clone);
    for field in ["metadata", "spec"] {
        try_all(&|value| json!({ (field): value }));
    }
    for field in ["annotations", "labels"] {
        try_all(&|value| pod(json!({ (field): value }), json!({})));
    }
    for field in ["initContainers", "containers", "volumes", "securityContext", "os", "hostNetwork", "dnsPolicy"] {
        try_all(&|value| pod(json!({}), json!({ (field): value })));
    }
    for field in ["ports", "livenessProbe", "securityContext"] {
        try_all(&|value| pod(json!({}), json!({ "containers": [{ "name": "app", (field): value }] })));
    }
    for field in ["httpGet", "tcpSocket", "grpc", "timeoutSeconds"] {
        try_all(&|value| pod(json!({}), json!({ "containers": [{ "name": "app", "livenessProbe": { (field): value } }] })));
    }
    assert_eq!(tried.into_inner(), odd.len() * 19);
}

/// What is written here is what the controller goes by, which tells callers.
#[test]
fn who_is_injected_is_known_by_it() {
    for (annotations, plain_ports) in
        [(json!({}), &[][..]), (json!({ "isthmus.dev/exclude-inbound-ports": "9100, 80" }), &[80, 9100])]
    {
        let mut pod = injected(&pod(json!({ "name": "a", "namespace": "shop", "annotations": annotations }), json!({})));
        pod["apiVersion"] = "v1".into();
        let isthmus_api::Object::Pod(read) = isthmus_api::decode(pod).unwrap() else { panic!("it is a pod") };
        assert_eq!(read.spec.sidecar.as_ref().map(|sidecar| sidecar.plain_ports.as_slice()), Some(plain_ports));
    }
}
