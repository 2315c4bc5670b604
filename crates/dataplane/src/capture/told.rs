//! What the log says of connections that a sidecar refuses: who called whom, why that was refused, and what to do.

use std::net::SocketAddr;

use crate::telemetry::{ConnectionFault, Telemetry};

/// Says so, unless the same was said of others a short time ago: whoever connects can cause it. Nothing is said of what nobody has to do
/// anything about, nor of what is said elsewhere.
pub(super) fn tell(telemetry: &Telemetry, (peer, to): (SocketAddr, SocketAddr), fault: ConnectionFault, why: &str) {
    if let Some(advice) = advice(fault) {
        telemetry.complain(fault, || {
            tracing::warn!(%peer, %to, reason = fault.as_str(), "a connection is refused: {why}. {advice}");
        });
    }
}

fn advice(fault: ConnectionFault) -> Option<&'static str> {
    use ConnectionFault as F;
    Some(match fault {
        F::NotRedirected => {
            "Nobody of the mesh dials a port of the sidecar's: find out who does, such as a scan or a list of ports"
        }
        F::Loop => "Look for a Service, an endpoint or a client that names a port of the sidecar's, and take it out",
        F::NoServicePort => "Call a port that the Service has, or give it this one",
        F::NotHeld => {
            "If this goes on, see in this log whether the controller is reached, and at the controller \
             isthmus_controller_sidecars_waiting"
        }
        F::Plaintext | F::ClientHelloTimeout => {
            "Give the caller a sidecar (label isthmus.dev/inject: enabled), or let the port take plaintext (annotation \
             isthmus.dev/mtls-ports of the called pod)"
        }
        F::OtherIdentity => {
            "The address was another pod's a moment ago, and the caller hears of the change from the controller within seconds: if this \
             goes on, see whether the caller reaches the controller, and there isthmus_controller_sidecars_waiting"
        }
        F::NoCertificate => "What this log says of the controller and of the certificate is why",
        F::ClientCertificateAbsent => {
            "Sidecars and Gateways of the mesh always show one: let whoever calls do so without the server name of an identity"
        }
        F::ClientCertificateUnknownAuthority => {
            "The caller is of another mesh, or the root of its certificate has left `ca.crt` of the Secret isthmus-mesh-ca: then put that \
             back until each certificate is a new one, see docs/mesh-identity.md"
        }
        F::ClientCertificateExpired => {
            "The caller has not got the next one, and its own log says why; or the clocks of the two nodes differ: set them (NTP)"
        }
        F::ClientCertificateNotYetValid => {
            "The clock of this node is more than 5 minutes behind that of whoever has signed it: set it (NTP)"
        }
        F::ClientCertificateInvalid => {
            "The controller signs no such certificate: find out who has, and take that root out of `ca.crt` of the Secret isthmus-mesh-ca \
             if it is not yours"
        }
        _ => return None,
    })
}
