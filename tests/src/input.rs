//! `input.yaml` and `options.yaml` of a case: objects as an API server would hold them, and endpoints for their Services.
//!
//! What `options.yaml` can hold, every part optional:
//!
//! ```yaml
//! authorities:                          # made for the case
//!   ca: [ConfigMap/default/ca]          # `ca.crt` of these objects; a name in two lists: both in one object
//!   stranger: []                        # in no object
//! certificates:                         # Secrets of type `kubernetes.io/tls`, made for the case
//!   default/server: [example.com]       # signed by itself
//!   default/backend: {hosts: [b.example.com], uris: ["spiffe://example.com/b"], authority: ca, usage: server}
//!   default/client: {hosts: [client], authority: ca, usage: client}
//!   default/old: {hosts: [example.com], odd: expired}   # `Odd` in certificate.rs lists what there is
//! backends:                             # Services whose stand-in speaks TLS: HTTP or raw bytes in it, as it comes
//!   default/secure: {certificate: default/backend}
//!   default/strict: {certificate: default/backend, clients: ca}   # and asks for a certificate of that authority
//! unchecked: [Gateway/gateway]          # objects that pass by admission
//! live: {slice: default/service}        # EndpointSlices that get the address of the Service's stand-in
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use isthmus_api::{NamespacedName, Object, Objects, Stored, decode, decode_stored};
use isthmus_routing::{BackendKey, BundleKey, BundleKind, GatewayKey, Transport};
use isthmus_translate::{Address, Options, Translation, translate};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::case::Case;
use crate::certificate::{Authority, Pair, Wanted};

/// The objects of a case.
#[derive(Debug)]
pub struct Input {
    /// What an API server would hold.
    pub objects: Objects,
    /// What it would refuse, and what it holds and nobody here can read: one line each.
    pub rejected: Vec<String>,
    /// Certificates that were made for it, by the name of their Secret.
    pub certificates: BTreeMap<NamespacedName, Pair>,
    /// Authorities that were made for it.
    pub authorities: BTreeMap<String, Authority>,
    /// Whether Services are called in the mesh, and so can be parents.
    mesh: bool,
    options: CaseOptions,
}

/// A Service whose stand-in speaks TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Secure {
    /// What it shows.
    pub certificate: NamespacedName,
    /// Whose certificates it asks of clients.
    pub clients: Option<String>,
}

/// `options.yaml`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseOptions {
    /// Objects whose `ca.crt` has the certificate of each authority: `ConfigMap/namespace/name` or `Secret/namespace/name`.
    #[serde(default)]
    authorities: BTreeMap<String, Vec<BundleKey>>,
    /// Secrets that are made for the case: the names in their certificate, or more.
    #[serde(default)]
    certificates: BTreeMap<NamespacedName, Wanted>,
    /// Services whose stand-in speaks TLS.
    #[serde(default)]
    backends: BTreeMap<NamespacedName, Secure>,
    /// Objects (`kind/name`) that the API server does not check: its CRDs are older or newer than ours.
    #[serde(default)]
    unchecked: BTreeSet<String>,
    /// EndpointSlices of the default namespace whose port becomes that of a running echo server for the Service.
    #[serde(default)]
    live: BTreeMap<String, NamespacedName>,
}

/// Where Gateways and Services are reached.
#[derive(Debug, Clone, Default)]
pub struct Addresses {
    /// Of Gateways.
    pub gateways: BTreeMap<GatewayKey, Vec<IpAddr>>,
    /// Of Services, by those who call them in the mesh.
    pub services: BTreeMap<NamespacedName, IpAddr>,
}

/// Where each Service port is answered.
pub type Endpoints = BTreeMap<BackendKey, SocketAddr>;

impl Input {
    /// Reads, admits and decodes.
    ///
    /// # Errors
    /// When a file cannot be read, or an object that was admitted cannot be decoded.
    pub fn read(case: &Case) -> Result<Self, String> {
        Self::of(case, documents(case)?, case.requests.iter().any(|exchange| exchange.service.is_some()))
    }

    /// The same with other documents; `mesh`: whether Services can be parents.
    ///
    /// # Errors
    /// As [`Input::read`].
    pub fn of(case: &Case, documents: Vec<Value>, mesh: bool) -> Result<Self, String> {
        let options = match std::fs::read_to_string(case.folder.join("options.yaml")) {
            Ok(text) => serde_saphyr::from_str(&text).map_err(|error| format!("options.yaml: {error}"))?,
            Err(_) => CaseOptions::default(),
        };
        let authorities: BTreeMap<_, _> = options.authorities.keys().map(|name| (name.clone(), Authority::new(name))).collect();
        let made = |(name, wanted): (&NamespacedName, &Wanted)| Ok((name.clone(), wanted.make(&authorities)?));
        let certificates = options.certificates.iter().map(made).collect::<Result<BTreeMap<_, _>, String>>()?;
        let secrets = certificates.iter().map(|(name, pair)| pair.secret(name));
        let made: Vec<_> = secrets.chain(bundles(&options.authorities, &authorities)).collect();
        let mut input = Self { objects: Objects::default(), rejected: Vec::new(), certificates, authorities, mesh, options };
        for document in documents.into_iter().chain(made) {
            input.admit(document)?;
        }
        Ok(input)
    }

    /// How the stand-in for a Service speaks TLS, if it does.
    pub fn secure(&self, backend: &BackendKey) -> Option<&Secure> {
        self.options.backends.get(&NamespacedName { namespace: backend.namespace.clone(), name: backend.name.clone() })
    }

    fn admit(&mut self, document: Value) -> Result<(), String> {
        let name =
            format!("{}/{}", document["kind"].as_str().unwrap_or("?"), document["metadata"]["name"].as_str().unwrap_or("?"));
        if self.options.unchecked.contains(&name) {
            match decode_stored(&stored(document)) {
                Ok(Stored::Whole(object)) => drop(self.objects.apply(object)),
                Ok(Stored::Unreadable(part, why)) => drop(self.objects.apply_unreadable(part, why)),
                Err(error) => self.rejected.push(format!("{name} is stored and does not decode: {error}")),
            }
            return Ok(());
        }
        match isthmus_admission::admit(document) {
            Ok(admitted) => {
                let object =
                    decode(admitted.object).map_err(|error| format!("{name} was admitted and does not decode: {error}"))?;
                self.objects.apply(object);
            }
            Err(findings) => {
                self.rejected.extend(findings.iter().map(|finding| format!("{name}: {}: {}", finding.field, finding.message)));
            }
        }
        Ok(())
    }

    /// The Service ports that have no EndpointSlice, which an echo server stands in for.
    pub fn echoed(&self) -> Vec<BackendKey> {
        let sliced = |namespace: &str, service: &str| {
            self.objects.endpoint_slices.values().any(|slice| {
                slice.metadata.namespace.as_deref() == Some(namespace)
                    && slice
                        .metadata
                        .labels
                        .as_ref()
                        .and_then(|labels| labels.get("kubernetes.io/service-name"))
                        .map(String::as_str)
                        == Some(service)
            })
        };
        let live: Vec<_> = self.options.live.values().collect();
        let mut keys = Vec::new();
        for (name, service) in &self.objects.services {
            let external = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
            if external || (sliced(&name.namespace, &name.name) && !live.contains(&name)) {
                continue;
            }
            for port in service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()) {
                let transport = if is_over(port.protocol.as_deref(), Transport::Udp) { Transport::Udp } else { Transport::Tcp };
                if let Ok(port) = u16::try_from(port.port) {
                    keys.push(BackendKey { namespace: name.namespace.clone(), name: name.name.clone(), port, transport });
                }
            }
        }
        keys
    }

    /// Endpoints for the layers that open no socket.
    pub fn placeholder_endpoints(&self) -> Endpoints {
        self.echoed().into_iter().map(|key| (key, SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 8080))).collect()
    }

    /// The address that each Gateway and each Service gets, in the order of their names: 192.0.2.N and 10.96.0.N.
    fn placeholder_addresses(&self) -> Addresses {
        let numbered = |first: [u8; 3]| {
            let mut last = 0_u8;
            move || {
                last = last.saturating_add(1);
                IpAddr::V4(Ipv4Addr::new(first[0], first[1], first[2], last))
            }
        };
        self.addresses(numbered([192, 0, 2]), numbered([10, 96, 0]))
    }

    /// An address for each Gateway and for each Service that has one of its own.
    pub fn addresses(&self, mut gateway: impl FnMut() -> IpAddr, mut service: impl FnMut() -> IpAddr) -> Addresses {
        let gateways = self.objects.gateways.keys().map(|name| (gateway_key(name), vec![gateway()])).collect();
        let callable = self.objects.services.iter().filter(|(_, object)| {
            let spec = object.spec.as_ref();
            let external = spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName");
            self.mesh && !external && spec.and_then(|spec| spec.cluster_ip.as_deref()).is_none()
        });
        let services = callable.map(|(name, _)| (name.clone(), service())).collect();
        Addresses { gateways, services }
    }

    /// Translates with these endpoints and placeholder addresses.
    pub fn translate(&self, endpoints: &Endpoints) -> Translation {
        self.translate_at(endpoints, self.placeholder_addresses())
    }

    /// Translates with these endpoints and addresses.
    pub fn translate_at(&self, endpoints: &Endpoints, addresses: Addresses) -> Translation {
        let mut objects = self.objects.clone();
        for (name, address) in &addresses.services {
            if let Some(mut service) = objects.services.get(name).map(|service| (**service).clone()) {
                let spec = service.spec.get_or_insert_default();
                spec.cluster_ip = Some(address.to_string());
                spec.cluster_ips = Some(vec![address.to_string()]);
                objects.apply(Object::Service(Arc::new(service)));
            }
        }
        let live: BTreeMap<_, _> = self.options.live.iter().map(|(slice, service)| (service, slice)).collect();
        for (key, endpoint) in endpoints {
            let service = NamespacedName { namespace: key.namespace.clone(), name: key.name.clone() };
            let slice = live.get(&service).map(|slice| (*slice).clone());
            let udp = if key.transport == Transport::Udp { "-udp" } else { "" };
            let name = slice.unwrap_or_else(|| format!("{}-{}{udp}-echo", key.name, key.port));
            let port_name = port_name(&objects, key);
            objects.apply(decode(endpoint_slice(&name, key, &port_name, *endpoint)).expect("a slice made here decodes"));
        }
        let given = |ips: Vec<IpAddr>| ips.into_iter().map(Address::Ip).collect();
        let addresses = addresses.gateways.into_iter().map(|(key, ips)| (key, given(ips))).collect();
        translate(&objects, &Options { addresses, mesh: self.mesh, ..Options::default() })
    }
}

/// The documents of `input.yaml`.
///
/// # Errors
/// When it cannot be read or parsed.
pub fn documents(case: &Case) -> Result<Vec<Value>, String> {
    let text = std::fs::read_to_string(case.folder.join("input.yaml")).map_err(|error| format!("input.yaml: {error}"))?;
    serde_saphyr::from_multiple(&text).map_err(|error| format!("input.yaml: {error}"))
}

/// ConfigMaps and Secrets with the authorities in them.
fn bundles(wanted: &BTreeMap<String, Vec<BundleKey>>, authorities: &BTreeMap<String, Authority>) -> Vec<Value> {
    let mut bundles: BTreeMap<&BundleKey, String> = BTreeMap::new();
    for (name, keys) in wanted {
        for key in keys {
            bundles.entry(key).or_default().push_str(&authorities[name].certificate);
        }
    }
    let object = |(key, pem): (&BundleKey, String)| {
        let metadata = json!({"name": key.name, "namespace": key.namespace});
        match key.kind {
            BundleKind::ConfigMap => {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": pem}})
            }
            BundleKind::Secret => {
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"ca.crt": pem}})
            }
        }
    };
    bundles.into_iter().map(object).collect()
}

/// Whether a port of a Service is carried by it.
fn is_over(protocol: Option<&str>, transport: Transport) -> bool {
    protocol.unwrap_or("TCP") == transport.as_str()
}

/// What every API server adds.
fn stored(mut document: Value) -> Value {
    let metadata = &mut document["metadata"];
    for (field, value) in [("namespace", json!("default")), ("generation", json!(1))] {
        if metadata[field].is_null() {
            metadata[field] = value;
        }
    }
    document
}

/// The key of a Gateway object.
pub fn gateway_key(name: &NamespacedName) -> GatewayKey {
    GatewayKey { namespace: name.namespace.clone(), name: name.name.clone() }
}

fn port_name(objects: &Objects, key: &BackendKey) -> String {
    let name = NamespacedName { namespace: key.namespace.clone(), name: key.name.clone() };
    let service = objects.services.get(&name);
    let ports = service.and_then(|service| service.spec.as_ref()).and_then(|spec| spec.ports.as_ref());
    ports
        .and_then(|ports| {
            ports.iter().find(|port| port.port == i32::from(key.port) && is_over(port.protocol.as_deref(), key.transport))
        })
        .and_then(|port| port.name.clone())
        .unwrap_or_default()
}

fn endpoint_slice(name: &str, key: &BackendKey, port_name: &str, endpoint: SocketAddr) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": key.namespace, "labels": {"kubernetes.io/service-name": key.name}},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": endpoint.port(), "protocol": key.transport.as_str()}],
        "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
    })
}
