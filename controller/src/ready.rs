//! Services, EndpointSlices and Pods -> the proxies that have to serve what they are given, and whether traffic gets there. Pure.

use std::collections::{BTreeMap, BTreeSet};

use isthmus_api::core::api::core::v1::ServicePort;
use isthmus_api::{EndpointSlice, Objects};
use isthmus_routing::{GatewayKey, Transport};

use crate::provision::{self, names};

/// The label that an EndpointSlice's Service is named with.
const SERVICE: &str = "kubernetes.io/service-name";

/// The ready pods behind the Service of each of these Gateways, by name; a Gateway without any is absent.
pub fn pods<'g>(objects: &Objects, gateways: impl Iterator<Item = &'g GatewayKey>) -> BTreeMap<GatewayKey, BTreeSet<String>> {
    let services: BTreeMap<_, _> = gateways.map(|key| ((key.namespace.clone(), names::object_name(key)), key)).collect();
    let mut pods = BTreeMap::<GatewayKey, BTreeSet<String>>::new();
    for (name, slice) in &objects.endpoint_slices {
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get(SERVICE)) else { continue };
        let Some(key) = services.get(&(name.namespace.clone(), service.clone())) else { continue };
        let ready: BTreeSet<String> = ready(slice).collect();
        if !ready.is_empty() {
            pods.entry((*key).clone()).or_default().extend(ready);
        }
    }
    pods
}

/// The pods with sidecars that are ready, by namespace and name.
pub fn sidecars(objects: &Objects) -> BTreeSet<(String, String)> {
    let meshed = objects.pods.iter().filter(|(_, pod)| pod.has_sidecar() && pod.is_ready());
    meshed.map(|(name, _)| (name.namespace.clone(), name.name.clone())).collect()
}

/// What a Gateway's Service does not have yet of the ports that it is to have, in words: clients that dial one get nothing.
pub fn lacks_ports(objects: &Objects, gateway: &GatewayKey, ports: &BTreeSet<(u16, Transport)>) -> Option<String> {
    let name = provision::location(gateway);
    let Some(service) = objects.services.get(&name) else { return Some("its Service is not there yet".to_owned()) };
    let has = |port: &(u16, Transport)| {
        let own = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        own.into_iter().any(|own| is_port(own, *port))
    };
    let shown = |(port, transport): &(u16, Transport)| match transport {
        Transport::Tcp => port.to_string(),
        Transport::Udp => format!("{port}/UDP"),
    };
    let missing: Vec<_> = ports.iter().filter(|port| !has(port)).map(shown).collect();
    (!missing.is_empty()).then(|| format!("its Service has not got port {} yet", missing.join(", ")))
}

/// Whether a port of a Service has this number, and carries this.
pub(crate) fn is_port(own: &ServicePort, (number, transport): (u16, Transport)) -> bool {
    own.port == i32::from(number) && own.protocol.as_deref().unwrap_or("TCP") == transport.as_str()
}

fn ready(slice: &EndpointSlice) -> impl Iterator<Item = String> {
    let endpoints = slice.endpoints.iter().flatten();
    let ready = endpoints.filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
    let pods = ready.filter_map(|endpoint| endpoint.target_ref.as_ref());
    pods.filter(|target| target.kind.as_deref() == Some("Pod")).filter_map(|target| target.name.clone())
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::{Value, json};

    use super::*;

    fn slice(namespace: &str, name: &str, service: &str, endpoints: &Value) -> Value {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"namespace": namespace, "name": name, "labels": {SERVICE: service}}})
    }

    fn endpoint(pod: &str, ready: Option<bool>) -> Value {
        json!({"addresses": ["10.0.0.1"], "conditions": {"ready": ready}, "targetRef": {"kind": "Pod", "name": pod}})
    }

    #[test]
    fn ports_that_a_service_lacks_are_told() {
        let mut objects = Objects::default();
        let key = GatewayKey { namespace: "shop".to_owned(), name: "edge".to_owned() };
        let ports = BTreeSet::from([80, 443, 8080].map(|port| (port, Transport::Tcp)));
        assert_eq!(lacks_ports(&objects, &key, &ports).as_deref(), Some("its Service is not there yet"));
        let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "isthmus-edge"},
            "spec": {"ports": [{"port": 80}, {"port": 9}]}});
        objects.apply(decode(service).unwrap());
        assert_eq!(lacks_ports(&objects, &key, &ports).as_deref(), Some("its Service has not got port 443, 8080 yet"));
        assert_eq!(lacks_ports(&objects, &key, &BTreeSet::from([(80, Transport::Tcp)])), None);
        let lacking = lacks_ports(&objects, &key, &BTreeSet::from([(80, Transport::Udp)]));
        assert_eq!(lacking.as_deref(), Some("its Service has not got port 80/UDP yet"));
    }

    #[test]
    fn only_ready_pods_with_sidecars_count() {
        let mut objects = Objects::default();
        for (name, meshed, ready) in [("a", true, "True"), ("b", true, "False"), ("c", false, "True")] {
            let sidecar = json!({"name": "isthmus-proxy", "restartPolicy": "Always"});
            let spec = if meshed { json!({"initContainers": [sidecar]}) } else { json!({}) };
            let status = json!({"conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": ready}]});
            let metadata = json!({"namespace": "shop", "name": name});
            objects.apply(
                decode(json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": status})).unwrap(),
            );
        }
        assert_eq!(sidecars(&objects), BTreeSet::from([("shop".to_owned(), "a".to_owned())]));
    }

    #[test]
    fn only_ready_pods_of_the_gateways_own_service_count() {
        let mut objects = Objects::default();
        for object in [
            slice(
                "shop",
                "one",
                "isthmus-edge",
                &json!([endpoint("a", Some(true)), endpoint("b", Some(false)), endpoint("c", None)]),
            ),
            slice("shop", "two", "isthmus-edge", &json!([endpoint("a", Some(true)), endpoint("d", Some(true))])),
            slice("shop", "three", "front", &json!([endpoint("e", Some(true))])),
            slice("bank", "one", "isthmus-edge", &json!([endpoint("f", Some(true))])),
            slice("shop", "none", "isthmus-idle", &json!(null)),
        ] {
            objects.apply(decode(object).unwrap());
        }
        let key = |name: &str| GatewayKey { namespace: "shop".to_owned(), name: name.to_owned() };
        let found = pods(&objects, [key("edge"), key("idle")].iter());
        let expected = BTreeSet::from(["a", "c", "d"].map(str::to_owned));
        assert_eq!(found, BTreeMap::from([(key("edge"), expected)]));
    }
}
