//! Objects -> one resolved graph: which class, Gateway, listener, route and rule is ours, what each refers to, and what is wrong
//! with it. Everything is decided here, once; [`crate::snapshot`] and [`crate::status`] only read.

mod attachment;
pub(crate) mod backend_ref;
pub(crate) mod backend_tls;
pub(crate) mod bundle;
mod certificate;
pub(crate) mod client_validation;
pub(crate) mod conflict;
mod endpoint;
pub(crate) mod gateway;
pub(crate) mod gateway_class;
mod hostname_index;
pub(crate) mod listener;
pub(crate) mod listener_set;
mod parameters;
pub(crate) mod pod;
mod reference_grant;
pub(crate) mod route;
pub(crate) mod service;
mod spoken;
mod tls_options;
pub(crate) mod x_mesh;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use isthmus_api::shared::RouteView;
use isthmus_api::{NamespacedName, ObjectRef, Objects};
use isthmus_routing::{
    BackendKey, BackendTls, Bundle, BundleKey, Certificate, CertificateKey, GatewayKey, Mesh, RouteKey, ServiceParent, Transport,
};

use attachment::{AttachmentFault, NamespaceLabels, Parents};
pub(crate) use attachment::{Parent, ParentNode};
use backend_ref::Backends;
use backend_tls::{Policies, PolicyNode, Used};
use bundle::Bundles;
use certificate::Certificates;
pub(crate) use endpoint::Services;
use gateway::GatewayNode;
use gateway_class::GatewayClassNode;
use listener_set::ListenerSetNode;
use pod::Pods;
use reference_grant::ReferenceGrants;
use route::RouteNode;
use x_mesh::XMeshNode;

use crate::{Audience, Options, Proof, ServiceProof};

/// Everything that is ours, resolved and judged.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    pub(crate) classes: BTreeMap<&'a str, GatewayClassNode<'a>>,
    pub(crate) gateways: BTreeMap<NamespacedName, GatewayNode>,
    pub(crate) listener_sets: BTreeMap<NamespacedName, ListenerSetNode>,
    /// Sorted by key.
    pub(crate) routes: Vec<RouteNode>,
    /// Those that can be served.
    pub(crate) certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    /// Those that can be used.
    pub(crate) bundles: BTreeMap<BundleKey, Arc<Bundle>>,
    pub(crate) services: Services<'a>,
    /// Service ports that clients in the mesh call; empty where there is no mesh.
    pub(crate) service_parents: BTreeMap<BackendKey, ServiceParent>,
    /// Whose certificates workloads take from each other; none: nobody is in a mesh.
    pub(crate) authority: Option<&'a Arc<Mesh>>,
    /// Empty where there is no mesh.
    pub(crate) pods: Pods<'a>,
    /// Empty where there is no mesh.
    pub(crate) x_meshes: BTreeMap<&'a str, XMeshNode>,
    /// Certificates whose content cannot be read now: a proxy goes on with what it holds.
    pub(crate) kept: BTreeSet<CertificateKey>,
    /// The same of bundles.
    pub(crate) kept_bundles: BTreeSet<BundleKey>,
    /// By what they target.
    pub(crate) policies: Policies<'a>,
    /// BackendTLSPolicies whose targets are used.
    pub(crate) backend_tls: BTreeMap<NamespacedName, PolicyNode>,
    /// Secrets and ConfigMaps that something refers to and may refer to.
    pub(crate) references: BTreeSet<ObjectRef>,
    /// What proxies have acknowledged, if they are asked.
    pub(crate) proof: Option<&'a BTreeMap<GatewayKey, Proof>>,
    /// What sidecars have, if they are asked.
    pub(crate) service_proof: Option<&'a BTreeMap<Audience, ServiceProof>>,
    /// Why the version of the CRDs is not supported.
    pub(crate) unsupported_version: Option<&'a str>,
}

impl<'a> Graph<'a> {
    /// Resolves and judges everything.
    pub(crate) fn build(objects: &'a Objects, options: &'a Options) -> Self {
        let grants = ReferenceGrants::new(objects);
        let services = Services::new(objects);
        let classes = gateway_class::ours(objects);
        let policies = Policies::new(objects);
        let mut certificates = Certificates::new(&objects.secrets, &options.unread, &grants);
        let mut bundles = Bundles::new(objects, &options.unread, &grants);
        let mut gateways = gateway::ours(objects, &classes, options, &mut certificates, &mut bundles);
        let labels = NamespaceLabels::new(objects);
        let judge = listener_set::Judge { objects, options, labels: &labels };
        let listener_sets = listener_set::join(&judge, &mut gateways, &mut certificates);
        let (certificates, kept, mut references) = certificates.into_read();
        let parents = Parents { gateways: &gateways, listener_sets: &listener_sets, services: options.mesh.then_some(&services) };
        let backends = Backends { services: &services, grants: Some(&grants), policies: &policies };
        let mut routes = read_routes(objects, &parents, &backends);
        claim(&mut routes, &parents, &labels);
        attachment::attach(&mut routes, &mut gateways);
        let mut service_parents = if options.mesh { service::parents(&services) } else { BTreeMap::new() };
        service::attach(&mut routes, &mut service_parents);
        let used = Used::new(&policies, &gateways, &service_parents, &routes);
        let pods = if options.mesh { Pods::new(objects, options.mtls) } else { Pods::default() };
        let backend_tls = policies.resolve(&used, &services, &pods, &mut bundles);
        let (bundles, kept_bundles, of_bundles) = bundles.into_read();
        references.extend(of_bundles);
        Self {
            classes,
            gateways,
            listener_sets,
            routes,
            certificates,
            bundles,
            services,
            service_parents,
            authority: options.authority.as_ref().filter(|_| options.mesh),
            pods,
            x_meshes: if options.mesh { x_mesh::ours(objects) } else { BTreeMap::new() },
            kept,
            kept_bundles,
            policies,
            backend_tls,
            references,
            proof: options.proof.as_ref(),
            service_proof: options.service_proof.as_ref(),
            unsupported_version: options.unsupported_version.as_deref(),
        }
    }

    /// What the proxies of a Gateway have acknowledged; none: they are not asked.
    pub(crate) fn proof(&self, gateway: &GatewayKey) -> Option<Cow<'a, Proof>> {
        let proofs = self.proof?;
        Some(proofs.get(gateway).map_or_else(|| Cow::Owned(Proof::default()), Cow::Borrowed))
    }

    /// How connections to a backend are encrypted; none: not at all.
    pub(crate) fn backend_tls(&self, key: &BackendKey) -> Option<BackendTls> {
        let service = NamespacedName::new(key.namespace.as_str(), key.name.as_str());
        let found = endpoint::find_port(self.services.get(&service)?, key.port, key.transport);
        let port = found.and_then(|port| port.name.as_deref());
        let policy = self.policies.deciding(&service, port).filter(|_| key.transport == Transport::Tcp)?;
        // One that was not judged is one that nobody knows what to make of.
        Some(self.backend_tls.get(policy).map_or(BackendTls::Invalid, |node| node.tls.clone()))
    }

    /// A route by its key.
    pub(crate) fn route(&self, key: &RouteKey) -> Option<&RouteNode> {
        self.routes.binary_search_by(|route| route.key.cmp(key)).ok().and_then(|at| self.routes.get(at))
    }
}

/// Whether a name can be written as `Kind/namespace/name`, which is how the model refers to objects. Kubernetes admits no other;
/// whatever came by another way has neither a status nor an item.
fn is_nameable(name: &NamespacedName) -> bool {
    [&name.namespace, &name.name].iter().all(|part| !part.is_empty() && !part.contains('/'))
}

/// How messages tell of an API group.
fn of_group(group: &str) -> String {
    if group.is_empty() { "of the core group".to_owned() } else { format!("of group `{group}`") }
}

fn read_routes(objects: &Objects, parents: &Parents<'_>, backends: &Backends<'_, '_>) -> Vec<RouteNode> {
    let http = objects.http_routes.values().map(|route| RouteView::from(&**route));
    let grpc = objects.grpc_routes.values().map(|route| RouteView::from(&**route));
    let tls = objects.tls_routes.values().map(|route| RouteView::from(&**route));
    let tcp = objects.tcp_routes.values().map(|route| RouteView::from(&**route));
    let udp = objects.udp_routes.values().map(|route| RouteView::from(&**route));
    let nameable = http.chain(grpc).chain(tls).chain(tcp).chain(udp).filter(|view| is_nameable(&view.namespaced_name()));
    let read = |view: RouteView<'_>| {
        let unreadable = objects.unreadable(view.kind, &view.namespaced_name());
        route::read(&view, unreadable, parents, backends)
    };
    let mut routes: Vec<_> = nameable.filter_map(read).collect();
    routes.sort_by(|a, b| a.key.cmp(&b.key));
    routes
}

fn claim(routes: &mut [RouteNode], known: &Parents<'_>, labels: &NamespaceLabels<'_>) {
    for route in routes {
        let mut nodes = std::mem::take(&mut route.parents);
        for ParentNode { parent_ref, parent, fault } in &mut nodes {
            let claimed = match parent {
                Parent::Gateway(node) => {
                    attachment::claim(route, parent_ref, node, known, labels).map(|claims| node.claims = claims)
                }
                Parent::Service(node) => match service::claim(parent_ref, &node.service, known.services) {
                    Ok(ports) => match &route.unreadable {
                        Some(why) => Err(AttachmentFault::Unreadable(why.clone())),
                        None => {
                            node.ports = ports;
                            Ok(())
                        }
                    },
                    Err(fault) => Err(AttachmentFault::Service(fault)),
                },
            };
            *fault = claimed.err();
        }
        route.parents = nodes;
    }
}
