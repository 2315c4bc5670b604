//! The one list of what Isthmus can do, as `supportedFeatures` in the statuses of GatewayClasses and XMeshes publishes it.

use isthmus_api::status::SupportedFeature;

/// Every feature of Gateway API v1.7.0 that holds, sorted:
///
/// > It MUST be sorted in ascending alphabetical order by the Name key.
///
/// A feature is added in the change that makes it true, because the conformance suite runs what it finds here.
pub const SUPPORTED: &[&str] = &[
    "BackendTLSPolicy",
    "BackendTLSPolicySANValidation",
    "GRPCRoute",
    "GRPCRouteNamedRouteRule",
    "GRPCRouteRequestHeaderModifier",
    "Gateway",
    "GatewayAddressEmpty",
    "GatewayBackendClientCertificate",
    "GatewayFrontendClientCertificateValidation",
    "GatewayFrontendClientCertificateValidationInsecureFallback",
    "GatewayHTTPListenerIsolation",
    "GatewayHTTPSListenerDetectMisdirectedRequests",
    "GatewayInfrastructure",
    "GatewayPort8080",
    "GatewayRouteHostnameIntersectionPrecedence",
    "GatewayStaticAddresses",
    "HTTPRoute",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteBackendURLRewrite",
    "HTTPRouteCORS",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestMirror",
    "HTTPRouteRequestMultipleMirrors",
    "HTTPRouteRequestPercentageMirror",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteRetryCodes",
    "HTTPRouteRetryConnectionError",
    "HTTPRouteSchemeRedirect",
    "ListenerSet",
    "ReferenceGrant",
    "TCPRoute",
    "TLSRoute",
    "TLSRouteModeMixed",
    "TLSRouteModeTerminate",
    "UDPRoute",
];

/// Every feature of the mesh in Gateway API v1.7.0 that holds, sorted. The features of the kinds of routes that they are about are not among
/// them: those are a Gateway's, and the conformance suite passes them over in the status of an XMesh.
pub const MESH: &[&str] = &[
    "Mesh",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
];

/// [`SUPPORTED`] as a status has it.
pub(crate) fn supported() -> Vec<SupportedFeature> {
    listed(SUPPORTED)
}

/// [`MESH`] as a status has it.
pub(crate) fn of_mesh() -> Vec<SupportedFeature> {
    listed(MESH)
}

fn listed(names: &[&str]) -> Vec<SupportedFeature> {
    names.iter().map(|name| SupportedFeature { name: (*name).to_owned() }).collect()
}

#[cfg(test)]
mod tests {
    use super::{MESH, SUPPORTED};

    #[test]
    fn features_are_sorted_and_fit_the_status() {
        for list in [SUPPORTED, MESH] {
            assert!(list.is_sorted_by(|a, b| a < b));
            assert!(list.len() <= 64, "`supportedFeatures` takes at most 64 items");
        }
    }
}
