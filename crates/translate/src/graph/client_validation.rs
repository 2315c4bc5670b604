//! `spec.tls.frontend` of a Gateway -> which certificates the clients of each port have to show.
//!
//! It is for every listener that ends TLS. The specification speaks of HTTPS alone and says nothing of TLS listeners that end TLS: there
//! it is the same, because a Gateway whose clients have to show a certificate should have no door where they are not asked. `perPort`
//! without a validation exempts a port.

use std::collections::BTreeMap;

use isthmus_api::generated::gateways::{
    GatewayTls, GatewayTlsFrontendDefaultValidation, GatewayTlsFrontendDefaultValidationMode,
    GatewayTlsFrontendPerPortTlsValidation, GatewayTlsFrontendPerPortTlsValidationMode,
};

use super::bundle::{Authorities, BundleRef, Bundles};
use super::reference_grant::From;

/// What a Gateway asks of clients, by port. The listeners of its ListenerSets obey it too.
#[derive(Debug, Default)]
pub(crate) struct Frontend {
    default: Option<Validation>,
    ports: BTreeMap<i32, Option<Validation>>,
}

/// What clients have to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validation {
    /// Who may have signed it.
    pub(crate) authorities: Authorities,
    /// Whether clients that show nothing, or something else, are served all the same.
    pub(crate) is_optional: bool,
}

impl Frontend {
    /// `owner` is the Gateway.
    pub(super) fn resolve(tls: Option<&GatewayTls>, owner: From<'_>, bundles: &mut Bundles<'_, '_>) -> Self {
        let Some(frontend) = tls.and_then(|tls| tls.frontend.as_ref()) else { return Self::default() };
        let mut validation = |wanted: Wanted<'_>| Validation {
            authorities: bundles.authorities(owner, wanted.references),
            is_optional: wanted.is_optional,
        };
        let default = frontend.default.validation.as_ref().map(|wanted| validation(wanted.into()));
        let mut ports = BTreeMap::new();
        for own in frontend.per_port.iter().flatten() {
            ports.entry(own.port).or_insert_with(|| own.tls.validation.as_ref().map(|wanted| validation(wanted.into())));
        }
        Self { default, ports }
    }

    /// What clients of listeners on a port have to show; none: nothing.
    ///
    /// > Per port configuration is optional. Once set this configuration overrides
    /// > the default configuration for all Listeners handling HTTPS traffic
    /// > that match this port.
    pub(crate) fn of_port(&self, port: i32) -> Option<&Validation> {
        self.ports.get(&port).unwrap_or(&self.default).as_ref()
    }

    /// Where clients are served whatever they show: `default`, `port 8443`; empty: nowhere.
    pub(crate) fn optional(&self) -> Vec<String> {
        let is_optional = |validation: &Option<Validation>| validation.as_ref().is_some_and(|validation| validation.is_optional);
        let default = is_optional(&self.default).then(|| "default".to_owned());
        let ports = self.ports.iter().filter(|(_, validation)| is_optional(validation)).map(|(port, _)| format!("port {port}"));
        default.into_iter().chain(ports).collect()
    }
}

/// `validation`, wherever it is.
struct Wanted<'w> {
    references: Vec<BundleRef<'w>>,
    is_optional: bool,
}

macro_rules! wanted_from {
    ($($validation:ty, $mode:ty;)*) => {$(
        impl<'w> std::convert::From<&'w $validation> for Wanted<'w> {
            fn from(from: &'w $validation) -> Self {
                let reference = from.ca_certificate_refs.iter().map(|reference| BundleRef {
                    group: &reference.group,
                    kind: &reference.kind,
                    namespace: reference.namespace.as_deref(),
                    name: &reference.name,
                });
                Self { references: reference.collect(), is_optional: from.mode == Some(<$mode>::AllowInsecureFallback) }
            }
        }
    )*};
}
wanted_from!(
    GatewayTlsFrontendDefaultValidation, GatewayTlsFrontendDefaultValidationMode;
    GatewayTlsFrontendPerPortTlsValidation, GatewayTlsFrontendPerPortTlsValidationMode;
);

#[cfg(test)]
mod tests {
    use isthmus_api::NamespacedName;
    use serde_json::{Value, json};

    use crate::testing::{authority, bundle, edge, gateway_with, object, secret, shown, translated};

    /// An HTTPS listener on port 443 with this `validation` by default, in a namespace with the bundles `ca`, `ca2` and `bare`.
    fn validated(validation: &Value) -> (Vec<String>, Option<Value>) {
        let listener = json!({"name": "a", "port": 443, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "good"}]}});
        let spec = json!({
            "gatewayClassName": "isthmus", "listeners": [listener, {"name": "b", "port": 80, "protocol": "HTTP"}],
            "tls": {"frontend": {"default": {"validation": validation}}},
        });
        let bundles = ["ca", "ca2"].map(|name| bundle("shop", name, Some(&authority())));
        let others = [bundle("shop", "bare", None), bundle("bank", "ca", Some(&authority()))];
        let translation = translated([gateway_with(spec), secret("good")].into_iter().chain(bundles).chain(others));
        let listeners = &translation.statuses.gateways[&NamespacedName::new("shop", "edge")].listeners;
        assert_eq!(shown(&listeners[1].conditions, 3)[..2], ["Accepted=True/Accepted", "Programmed=True/Programmed"]);
        let served = translation.snapshot.gateways[&edge()].listeners.iter().find(|listener| listener.name == "a");
        let told = served.map(|listener| serde_json::to_value(&listener.client_validation).unwrap());
        for key in served.iter().flat_map(|listener| &listener.client_validation).flat_map(|validation| &validation.authorities) {
            let snapshot = &translation.snapshot;
            assert!(snapshot.bundles.contains_key(key) != snapshot.kept_bundles.contains(key), "{key}");
        }
        (shown(&listeners[0].conditions, 3)[..3].to_vec(), told)
    }

    /// > In all cases, the implementation MUST ensure that the `ResolvedRefs`
    /// > condition is set to `status: False` on all targeted listeners (i.e.,
    /// > listeners serving HTTPS on a matching port).
    #[test]
    fn a_listener_that_should_ask_for_client_certificates_is_never_served_without() {
        let to = |name: &str| json!({"group": "", "kind": "ConfigMap", "name": name});
        let in_bank = json!({"group": "", "kind": "ConfigMap", "name": "ca", "namespace": "bank"});
        let service = json!({"group": "", "kind": "Service", "name": "ca"});
        let good = "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=True/ResolvedRefs";
        let partly = "Accepted=True/Accepted Programmed=True/Programmed ResolvedRefs=False/InvalidCACertificateRef";
        let refused =
            |reason: &str| format!("Accepted=False/NoValidCACertificate Programmed=False/Invalid ResolvedRefs={reason}");
        let asks = |names: &[&str]| {
            let authorities: Vec<_> = names.iter().map(|name| format!("ConfigMap/shop/{name}")).collect();
            Some(json!({"authorities": authorities}))
        };
        let optional = json!({"authorities": ["ConfigMap/shop/ca"], "optional": true});
        for (references, mode, conditions, served) in [
            (vec![to("ca")], None, good.to_owned(), asks(&["ca"])),
            (vec![to("ca"), to("ca2"), to("ca")], Some("AllowValidOnly"), good.to_owned(), asks(&["ca", "ca2"])),
            (vec![to("ca")], Some("AllowInsecureFallback"), good.to_owned(), Some(optional)),
            (vec![to("absent"), to("ca")], None, partly.to_owned(), asks(&["ca"])),
            (vec![to("bare"), to("ca")], None, partly.to_owned(), asks(&["bare", "ca"])),
            (vec![to("bare")], None, refused("False/InvalidCACertificateRef"), asks(&["bare"])),
            (vec![to("absent")], None, refused("False/InvalidCACertificateRef"), None),
            (vec![to("absent")], Some("AllowInsecureFallback"), refused("False/InvalidCACertificateRef"), None),
            (vec![service], None, refused("False/InvalidCACertificateKind"), None),
            (vec![in_bank], None, refused("False/RefNotPermitted"), None),
            (vec![], None, refused("True/ResolvedRefs"), None),
        ] {
            let validation = json!({"caCertificateRefs": references, "mode": mode});
            let (told, found) = validated(&validation);
            assert_eq!((told.join(" "), found), (conditions, served), "{validation}");
        }
    }

    #[test]
    fn each_port_asks_for_what_is_said_for_it() {
        let listener = |name: &str, port: u16| json!({"name": name, "port": port, "protocol": "HTTPS", "tls": {"certificateRefs": [{"name": "good"}]}});
        let validation =
            |name: &str| json!({"validation": {"caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": name}]}});
        let spec = json!({
            "gatewayClassName": "isthmus", "allowedListeners": {"namespaces": {"from": "Same"}},
            "listeners": [listener("a", 443), listener("b", 8443), listener("c", 9443)],
            "tls": {"frontend": {"default": validation("ca"), "perPort": [
                {"port": 8443, "tls": {}}, {"port": 9443, "tls": validation("ca2")}, {"port": 80, "tls": validation("absent")},
            ]}},
        });
        let mut of_set = listener("d", 9443);
        of_set["hostname"] = "set.example.com".into();
        let set = json!({"parentRef": {"name": "edge"}, "listeners": [of_set, {"name": "e", "port": 80, "protocol": "HTTP"}]});
        let translation = translated([
            gateway_with(spec),
            object("gateway.networking.k8s.io/v1", "ListenerSet", "shop", "set", json!({"generation": 5}), set),
            secret("good"),
            bundle("shop", "ca", Some(&authority())),
            bundle("shop", "ca2", Some(&authority())),
        ]);
        let told = translation.snapshot.gateways[&edge()].listeners.iter().map(|listener| {
            let authorities = listener.client_validation.iter().flat_map(|validation| &validation.authorities);
            authorities.fold(listener.name.clone(), |text, key| format!("{text}+{}", key.name))
        });
        assert_eq!(told.collect::<Vec<_>>().join(" "), "a+ca b c+ca2 shop/set/d+ca2 shop/set/e");
    }
}
