//! Which Service ports need an echo, and the EndpointSlices that lead to it: with them, the statuses are those of a cluster where pods answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use isthmus_api::core::api::core::v1::{ObjectReference, ServicePort};
use isthmus_api::core::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use isthmus_api::{NamespacedName, Object, ObjectMeta, Objects};
use isthmus_routing::{BackendKey, Transport};

use super::Identity;

/// The label by which a slice belongs to a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

/// The ports of TCP and UDP of Services that have no EndpointSlice. A Service with a slice that lists nobody has said that nobody answers.
pub fn wanted(objects: &Objects) -> BTreeSet<BackendKey> {
    let has_slice: BTreeSet<NamespacedName> = objects
        .endpoint_slices
        .iter()
        .filter_map(|(name, slice)| {
            let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
            Some(NamespacedName::new(name.namespace.clone(), service.clone()))
        })
        .collect();
    let without = objects.services.iter().filter(|(name, _)| !has_slice.contains(*name));
    without
        .filter_map(|(name, service)| Some((name, service.spec.as_ref()?)))
        // An ExternalName is a name for somebody else's server.
        .filter(|(_, spec)| spec.type_.as_deref() != Some("ExternalName"))
        .flat_map(|(name, spec)| {
            let port = |port: &ServicePort| {
                Some(BackendKey {
                    namespace: name.namespace.clone(),
                    name: name.name.clone(),
                    port: u16::try_from(port.port).ok()?,
                    transport: transport(port)?,
                })
            };
            spec.ports.iter().flatten().filter_map(port)
        })
        .collect()
}

/// None for SCTP, which nothing here carries.
fn transport(port: &ServicePort) -> Option<Transport> {
    match port.protocol.as_deref() {
        None | Some("TCP") => Some(Transport::Tcp),
        Some("UDP") => Some(Transport::Udp),
        Some(_) => None,
    }
}

/// Who the echo of a Service port says it is.
pub fn identity(key: &BackendKey) -> Identity {
    Identity { namespace: key.namespace.clone(), service: key.name.clone(), pod: pod(&key.name) }
}

/// The slices that lead to the echoes, as a cluster would have made them: one for each Service.
pub fn slices(objects: &Objects, echoes: &BTreeMap<BackendKey, SocketAddr>) -> Vec<Object> {
    let mut services: BTreeMap<NamespacedName, BTreeMap<(u16, Transport), SocketAddr>> = BTreeMap::new();
    for (key, address) in echoes {
        let ports = services.entry(NamespacedName::new(key.namespace.clone(), key.name.clone())).or_default();
        ports.insert((key.port, key.transport), *address);
    }
    let found = services.into_iter().filter_map(|(name, ports)| Some((objects.services.get(&name)?, name, ports)));
    found
        .map(|(service, name, ports)| {
            let declared = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
            let ports = declared.filter_map(|declared| {
                let transport = transport(declared)?;
                let address = ports.get(&(u16::try_from(declared.port).ok()?, transport))?;
                Some(EndpointPort {
                    // A slice refers to the Service's ports by name; the name of an unnamed one is empty.
                    name: Some(declared.name.clone().unwrap_or_default()),
                    port: Some(i32::from(address.port())),
                    protocol: Some(transport.as_str().to_owned()),
                    app_protocol: declared.app_protocol.clone(),
                })
            });
            Object::EndpointSlice(Arc::new(slice(&name, ports.collect())))
        })
        .collect()
}

fn slice(service: &NamespacedName, ports: Vec<EndpointPort>) -> EndpointSlice {
    let labels = [(SERVICE_NAME, service.name.as_str()), (MANAGED_BY, "echo.isthmus.dev")];
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(pod(&service.name)),
            namespace: Some(service.namespace.clone()),
            labels: Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()),
            ..ObjectMeta::default()
        },
        address_type: "IPv4".to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec!["127.0.0.1".to_owned()],
            conditions: Some(EndpointConditions { ready: Some(true), serving: Some(true), terminating: Some(false) }),
            target_ref: Some(ObjectReference {
                kind: Some("Pod".to_owned()),
                namespace: Some(service.namespace.clone()),
                name: Some(pod(&service.name)),
                ..ObjectReference::default()
            }),
            ..Endpoint::default()
        }]),
        ports: Some(ports),
    }
}

fn pod(service: &str) -> String {
    format!("{service}-echo")
}

#[cfg(test)]
mod tests {
    use isthmus_api::decode;
    use serde_json::{Value, json};

    use super::*;

    fn objects(specs: &[(&str, Value)]) -> Objects {
        let mut objects = Objects::default();
        for (name, spec) in specs {
            let service =
                json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "x"}, "spec": spec});
            objects.apply(decode(service).unwrap());
        }
        objects
    }

    fn slice_of(service: &str) -> Object {
        let metadata = json!({"name": "own", "namespace": "x", "labels": {"kubernetes.io/service-name": service}});
        decode(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata, "addressType": "IPv4", "endpoints": []})).unwrap()
    }

    #[test]
    fn services_without_a_slice_get_an_echo() {
        let mut objects = objects(&[
            (
                "a",
                json!({"ports": [{"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "grpc", "port": 81, "protocol": "TCP"}]}),
            ),
            ("named", json!({"type": "ExternalName", "externalName": "example.org", "ports": [{"port": 80}]})),
            ("empty", json!({"ports": [{"port": 80}]})),
            ("portless", json!({})),
            (
                "dns",
                json!({"ports": [{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}, {"name": "s", "port": 9, "protocol": "SCTP"}]}),
            ),
        ]);
        objects.apply(slice_of("empty"));
        let wanted: Vec<_> = wanted(&objects).iter().map(ToString::to_string).collect();
        assert_eq!(
            wanted,
            ["Service/x/a:53/UDP", "Service/x/a:80", "Service/x/a:81", "Service/x/dns:53", "Service/x/dns:53/UDP"]
        );
    }

    #[test]
    fn one_number_may_be_a_port_of_tcp_and_one_of_udp() {
        let ports = json!([{"name": "tcp", "port": 53}, {"name": "udp", "port": 53, "protocol": "UDP"}]);
        let objects = objects(&[("dns", json!({"ports": ports}))]);
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let port = |key: &BackendKey| if key.transport == Transport::Udp { address(5353) } else { address(5000) };
        let echoes = wanted(&objects).into_iter().map(|key| (key.clone(), port(&key))).collect();
        let json = slices(&objects, &echoes)[0].to_json().unwrap();
        let expected =
            json!([{"name": "tcp", "port": 5000, "protocol": "TCP"}, {"name": "udp", "port": 5353, "protocol": "UDP"}]);
        assert_eq!(json["ports"], expected);
    }

    #[test]
    fn a_slice_leads_to_the_echoes_by_port_name() {
        let mut objects = objects(&[(
            "a",
            json!({"ports": [{"name": "http", "port": 80, "appProtocol": "kubernetes.io/h2c"}, {"name": "alt", "port": 81}]}),
        )]);
        let echoes =
            wanted(&objects).into_iter().zip(5000..).map(|(key, port)| (key, SocketAddr::from(([127, 0, 0, 1], port)))).collect();
        let slices = slices(&objects, &echoes);
        assert_eq!(slices.len(), 1);
        let json = slices[0].to_json().unwrap();
        assert_eq!(json["metadata"]["name"], "a-echo");
        assert_eq!(json["metadata"]["labels"]["kubernetes.io/service-name"], "a");
        assert_eq!(json["endpoints"][0]["addresses"], json!(["127.0.0.1"]));
        assert_eq!(
            json["ports"],
            json!([{"name": "http", "port": 5000, "protocol": "TCP", "appProtocol": "kubernetes.io/h2c"}, {"name": "alt", "port": 5001, "protocol": "TCP"}])
        );
        objects.apply(slices[0].clone());
        assert!(wanted(&objects).is_empty(), "an echo is wanted once");
    }
}
