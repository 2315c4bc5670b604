//! Services and their EndpointSlices -> backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use isthmus_api::core::api::core::v1::ServicePort;
use isthmus_api::core::api::discovery::v1::Endpoint as SliceEndpoint;
use isthmus_api::{EndpointSlice, NamespacedName, Objects, Service};
use isthmus_routing::{Backend, BackendKey, BackendProtocol, Endpoint, ProxyProtocol, Transport};

use super::is_nameable;

/// The label that says whose endpoints a slice holds.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The annotation that says what connections to a Service begin with.
const PROXY_PROTOCOL: &str = "isthmus.dev/proxy-protocol";

/// Services with their slices.
#[derive(Debug)]
pub(crate) struct Services<'a> {
    services: &'a BTreeMap<NamespacedName, Arc<Service>>,
    slices: BTreeMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> Services<'a> {
    pub(crate) fn new(objects: &'a Objects) -> Self {
        let mut slices = BTreeMap::<_, Vec<_>>::new();
        for (key, slice) in &objects.endpoint_slices {
            if let Some(service) = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME)) {
                slices.entry((key.namespace.as_str(), service.as_str())).or_default().push(&**slice);
            }
        }
        Self { services: &objects.services, slices }
    }

    pub(crate) fn get(&self, name: &NamespacedName) -> Option<&'a Service> {
        self.services.get(name).filter(|_| is_nameable(name)).map(|service| &**service)
    }

    /// Every Service that can be named.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a NamespacedName, &'a Service)> {
        self.services.iter().filter(|(name, _)| is_nameable(name)).map(|(name, service)| (name, &**service))
    }

    /// The backend of a port that was found before; without the Service or the port it has no endpoints.
    ///
    /// `encrypted` says whether there is a BackendTLSPolicy.
    pub(crate) fn backend(&self, key: &BackendKey, encrypted: bool) -> Backend {
        let service = self.get(&NamespacedName::new(key.namespace.as_str(), key.name.as_str()));
        let Some((service, port)) = service.and_then(|service| Some((service, find_port(service, key.port, key.transport)?)))
        else {
            return Backend::default();
        };
        let slices = self.slices.get(&(key.namespace.as_str(), key.name.as_str())).map_or(&[][..], Vec::as_slice);
        Backend {
            protocol: protocol(port, encrypted).unwrap_or_default(),
            endpoints: endpoints(slices, port, key.transport),
            proxy_protocol: proxy_protocol(service).ok().flatten().filter(|_| key.transport == Transport::Tcp),
            ..Backend::default()
        }
    }
}

/// The port of a Service with this number, which may be there for each transport.
pub(crate) fn find_port(service: &Service, port: u16, transport: Transport) -> Option<&ServicePort> {
    let ports = service.spec.as_ref()?.ports.as_ref()?;
    ports.iter().find(|p| p.port == i32::from(port) && is_of(p.protocol.as_deref(), transport))
}

/// What the backend speaks, or the `appProtocol` that cannot be spoken to it.
///
/// > If a Route is not able to send traffic to the backend using the specified
/// > protocol then the backend is considered invalid. Implementations MUST set the
/// > "ResolvedRefs" condition to "False" with the "UnsupportedProtocol" reason.
///
/// What has TLS in its name needs a BackendTLSPolicy, and what has none in it cannot have one: `h2c` and `ws` are cleartext.
pub(crate) fn protocol(port: &ServicePort, encrypted: bool) -> Result<BackendProtocol, &str> {
    match port.app_protocol.as_deref() {
        None | Some("" | "http" | "kubernetes.io/http") => Ok(BackendProtocol::Http),
        Some(https) if encrypted && https.eq_ignore_ascii_case("https") => Ok(BackendProtocol::Http),
        Some("grpc") => Ok(BackendProtocol::H2c),
        Some("kubernetes.io/h2c" | "h2c") if !encrypted => Ok(BackendProtocol::H2c),
        Some("kubernetes.io/ws" | "ws") if !encrypted => Ok(BackendProtocol::WebSocket),
        Some("kubernetes.io/wss" | "wss") if encrypted => Ok(BackendProtocol::WebSocket),
        Some(other) => Err(other),
    }
}

/// What connections to a Service begin with, or the value of the annotation that is none.
pub(crate) fn proxy_protocol(service: &Service) -> Result<Option<ProxyProtocol>, &str> {
    let annotation = service.metadata.annotations.as_ref().and_then(|annotations| annotations.get(PROXY_PROTOCOL));
    match annotation.map(String::as_str) {
        None => Ok(None),
        Some("v1") => Ok(Some(ProxyProtocol::V1)),
        Some("v2") => Ok(Some(ProxyProtocol::V2)),
        Some(other) => Err(other),
    }
}

/// Ready endpoints, or, as kube-proxy does when there are none, those that terminate but still serve.
fn endpoints(slices: &[&EndpointSlice], port: &ServicePort, transport: Transport) -> Vec<Endpoint> {
    let with = |usable: fn(&SliceEndpoint) -> bool| -> Vec<Endpoint> {
        let mut found = BTreeSet::new();
        for slice in slices {
            let numbers: Vec<u16> = port_numbers(slice, port, transport).collect();
            for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| usable(endpoint)) {
                // All addresses of one endpoint are the same endpoint.
                let address = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok());
                found.extend(
                    address
                        .into_iter()
                        .flat_map(|ip| numbers.iter().map(move |number| Endpoint { address: SocketAddr::new(ip, *number) })),
                );
            }
        }
        found.into_iter().collect()
    };
    let ready = with(is_ready);
    if ready.is_empty() { with(is_serving_while_terminating) } else { ready }
}

/// A slice's ports are matched by the name of the Service's port, because their numbers are those of the pods.
fn port_numbers<'s>(slice: &'s EndpointSlice, port: &'s ServicePort, transport: Transport) -> impl Iterator<Item = u16> + 's {
    let name = port.name.as_deref().unwrap_or_default();
    slice
        .ports
        .iter()
        .flatten()
        .filter(move |p| p.name.as_deref().unwrap_or_default() == name && is_of(p.protocol.as_deref(), transport))
        .filter_map(|p| u16::try_from(p.port?).ok().filter(|number| *number > 0))
}

/// Whether a port of a Service or a slice is of this transport; TCP by default, as the API has it.
pub(super) fn is_of(protocol: Option<&str>, transport: Transport) -> bool {
    protocol.filter(|protocol| !protocol.is_empty()).unwrap_or("TCP") == transport.as_str()
}

/// Unknown is ready, as the API has it.
fn is_ready(endpoint: &SliceEndpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn is_serving_while_terminating(endpoint: &SliceEndpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or_else(|| is_ready(endpoint));
    serving && conditions.and_then(|conditions| conditions.terminating).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use isthmus_api::{Objects, decode};
    use isthmus_routing::{BackendKey, Transport};
    use serde_json::{Value, json};

    use super::*;

    fn slice(name: &str, ports: &Value, endpoints: &Value) -> Value {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": "front"}},
            "ports": ports, "endpoints": endpoints,
        })
    }

    fn backend(transport: Transport, ports: &Value, slices: Vec<Value>) -> (BackendProtocol, Vec<String>) {
        let mut objects = Objects::default();
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "front", "namespace": "shop"}, "spec": {"ports": ports},
        });
        for object in slices.into_iter().chain([service]) {
            objects.apply(decode(object).unwrap());
        }
        let key = BackendKey { namespace: "shop".to_owned(), name: "front".to_owned(), port: 80, transport };
        let backend = Services::new(&objects).backend(&key, false);
        (backend.protocol, backend.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect())
    }

    #[test]
    fn endpoints_come_from_all_slices_by_port_name() {
        let http = json!([{"name": "http", "port": 8080}]);
        let named = json!([{"name": "http", "port": 80}]);
        let up = |ip: &str| json!({"addresses": [ip], "conditions": {"ready": true}});
        let with = |ip: &str, conditions: Value| json!({"addresses": [ip], "conditions": conditions});
        let terminating = json!({"ready": false, "serving": true, "terminating": true});
        let table: Vec<(&str, Value, Vec<Value>, Vec<&str>)> = vec![
            ("no slices", named.clone(), vec![], vec![]),
            (
                "several slices, each address once, sorted, both families",
                named.clone(),
                vec![
                    slice("a", &http, &json!([up("10.0.0.2"), up("10.0.0.1")])),
                    slice("b", &http, &json!([up("10.0.0.2"), up("fd00::1")])),
                ],
                vec!["10.0.0.1:8080", "10.0.0.2:8080", "[fd00::1]:8080"],
            ),
            (
                "another port's name",
                named.clone(),
                vec![slice("a", &json!([{"name": "grpc", "port": 9}]), &json!([up("10.0.0.1")]))],
                vec![],
            ),
            (
                "no name on either side",
                json!([{"port": 80}]),
                vec![slice("a", &json!([{"name": "", "port": 8080}]), &json!([up("10.0.0.1")]))],
                vec!["10.0.0.1:8080"],
            ),
            (
                "unknown is ready",
                named.clone(),
                vec![slice("a", &http, &json!([with("10.0.0.1", json!({}))]))],
                vec!["10.0.0.1:8080"],
            ),
            (
                "ready ones first",
                named.clone(),
                vec![slice("a", &http, &json!([with("10.0.0.1", terminating.clone()), up("10.0.0.2")]))],
                vec!["10.0.0.2:8080"],
            ),
            (
                "terminating ones if there is no other",
                named.clone(),
                vec![slice("a", &http, &json!([with("10.0.0.1", terminating), with("10.0.0.2", json!({"ready": false}))]))],
                vec!["10.0.0.1:8080"],
            ),
            ("names are no addresses", named.clone(), vec![slice("a", &http, &json!([up("example.com")]))], vec![]),
            (
                "UDP does not count",
                json!([{"name": "http", "port": 80, "protocol": "UDP"}]),
                vec![slice("a", &http, &json!([up("10.0.0.1")]))],
                vec![],
            ),
        ];
        for (what, ports, slices, expected) in table {
            assert_eq!(backend(Transport::Tcp, &ports, slices).1, expected, "{what}");
        }
    }

    #[test]
    fn a_port_of_each_transport_has_its_own_endpoints() {
        let up = json!([{"addresses": ["10.0.0.1"]}]);
        let both = json!([
            {"name": "web", "port": 80, "protocol": "TCP"}, {"name": "quic", "port": 80, "protocol": "UDP"},
            {"name": "sctp", "port": 80, "protocol": "SCTP"},
        ]);
        let unnamed = json!([{"port": 80, "protocol": "UDP"}]);
        let slices = |ports: Value| vec![slice("a", &ports, &up)];
        type Row = (Value, Vec<Value>, &'static [&'static str], &'static [&'static str]);
        let table: Vec<Row> = vec![
            (
                both.clone(),
                slices(json!([
                    {"name": "web", "port": 8080, "protocol": "TCP"}, {"name": "quic", "port": 8443, "protocol": "UDP"},
                    {"name": "sctp", "port": 9, "protocol": "SCTP"},
                ])),
                &["10.0.0.1:8080"],
                &["10.0.0.1:8443"],
            ),
            (both.clone(), slices(json!([{"name": "quic", "port": 8443, "protocol": "TCP"}])), &[], &[]),
            (both, slices(json!([{"name": "web", "port": 8443, "protocol": "UDP"}])), &[], &[]),
            (unnamed.clone(), slices(json!([{"name": "", "port": 5353, "protocol": "UDP"}])), &[], &["10.0.0.1:5353"]),
            (unnamed, slices(json!([{"port": 5353}])), &[], &[]),
        ];
        for (ports, slices, tcp, udp) in table {
            assert_eq!(backend(Transport::Tcp, &ports, slices.clone()).1, tcp, "{ports}");
            assert_eq!(backend(Transport::Udp, &ports, slices).1, udp, "{ports}");
        }
    }

    #[test]
    fn app_protocols() {
        use BackendProtocol::{H2c, Http, WebSocket};
        for (app_protocol, plain, encrypted) in [
            (None, Some(Http), Some(Http)),
            (Some("http"), Some(Http), Some(Http)),
            (Some("grpc"), Some(H2c), Some(H2c)),
            (Some("kubernetes.io/h2c"), Some(H2c), None),
            (Some("kubernetes.io/ws"), Some(WebSocket), None),
            (Some("kubernetes.io/wss"), None, Some(WebSocket)),
            (Some("HTTPS"), None, Some(Http)),
            (Some("https"), None, Some(Http)),
            (Some("mqtt"), None, None),
        ] {
            let port = ServicePort { app_protocol: app_protocol.map(str::to_owned), ..ServicePort::default() };
            assert_eq!((protocol(&port, false).ok(), protocol(&port, true).ok()), (plain, encrypted), "{app_protocol:?}");
        }
    }

    #[test]
    fn proxy_protocols() {
        for (value, expected) in [
            (None, Ok(None)),
            (Some("v1"), Ok(Some(ProxyProtocol::V1))),
            (Some("v2"), Ok(Some(ProxyProtocol::V2))),
            (Some("2"), Err("2")),
            (Some(""), Err("")),
        ] {
            let mut service = Service::default();
            service.metadata.annotations = value.map(|value| [(PROXY_PROTOCOL.to_owned(), value.to_owned())].into());
            assert_eq!(proxy_protocol(&service), expected, "{value:?}");
        }
    }
}
