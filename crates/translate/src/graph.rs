//! Objects -> one resolved graph: which class, Gateway, listener, route and rule is ours, what each refers to, and what is wrong
//! with it. Everything is decided here, once; [`crate::snapshot`] and [`crate::status`] only read.

mod attachment;
pub(crate) mod backend_ref;
mod certificate;
pub(crate) mod conflict;
mod endpoint;
pub(crate) mod gateway;
pub(crate) mod gateway_class;
mod hostname_index;
pub(crate) mod listener;
mod reference_grant;
pub(crate) mod route;

use std::collections::BTreeMap;
use std::sync::Arc;

use isthmus_api::shared::RouteView;
use isthmus_api::{NamespacedName, Objects};
use isthmus_routing::{Certificate, CertificateKey, RouteKey};

use attachment::NamespaceLabels;
pub(crate) use attachment::ParentNode;
use backend_ref::Backends;
use certificate::Certificates;
pub(crate) use endpoint::Services;
use gateway::GatewayNode;
use gateway_class::GatewayClassNode;
use reference_grant::ReferenceGrants;
use route::RouteNode;

use crate::Options;

/// Everything that is ours, resolved and judged.
#[derive(Debug)]
pub(crate) struct Graph<'a> {
    pub(crate) classes: BTreeMap<&'a str, GatewayClassNode>,
    pub(crate) gateways: BTreeMap<NamespacedName, GatewayNode>,
    /// Sorted by key.
    pub(crate) routes: Vec<RouteNode>,
    /// Those that can be served.
    pub(crate) certificates: BTreeMap<CertificateKey, Arc<Certificate>>,
    pub(crate) services: Services<'a>,
}

impl<'a> Graph<'a> {
    /// Resolves and judges everything.
    pub(crate) fn build(objects: &'a Objects, options: &Options) -> Self {
        let grants = ReferenceGrants::new(objects);
        let services = Services::new(objects);
        let classes = gateway_class::ours(objects);
        let mut certificates = Certificates::new(&objects.secrets, &grants);
        let mut gateways = gateway::ours(objects, &classes, options, &mut certificates);
        let certificates = certificates.into_read();
        let mut routes = read_routes(objects, &gateways, &Backends { services: &services, grants: &grants });
        claim_listeners(objects, &mut routes, &gateways);
        attachment::attach(&mut routes, &mut gateways);
        Self { classes, gateways, routes, certificates, services }
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

fn read_routes(
    objects: &Objects,
    gateways: &BTreeMap<NamespacedName, GatewayNode>,
    backends: &Backends<'_, '_>,
) -> Vec<RouteNode> {
    let http = objects.http_routes.values().map(|route| RouteView::from(&**route));
    let grpc = objects.grpc_routes.values().map(|route| RouteView::from(&**route));
    let nameable = http.chain(grpc).filter(|view| is_nameable(&view.namespaced_name()));
    let mut routes: Vec<_> = nameable.filter_map(|view| route::read(&view, gateways, backends)).collect();
    routes.sort_by(|a, b| a.key.cmp(&b.key));
    routes
}

fn claim_listeners(objects: &Objects, routes: &mut [RouteNode], gateways: &BTreeMap<NamespacedName, GatewayNode>) {
    let namespaces = objects.http_routes.keys().chain(objects.grpc_routes.keys()).map(|name| name.namespace.as_str());
    let labels = NamespaceLabels::new(objects, namespaces);
    for route in routes {
        let claims: Vec<_> = route
            .parents
            .iter()
            .map(|parent| {
                gateways.get(&parent.gateway).map(|gateway| attachment::claim(route, &parent.parent_ref, gateway, &labels))
            })
            .collect();
        for (parent, claims) in route.parents.iter_mut().zip(claims) {
            match claims {
                Some(Ok(claims)) => parent.claims = claims,
                Some(Err(fault)) => parent.fault = Some(fault),
                None => {}
            }
        }
    }
}
