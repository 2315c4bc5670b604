//! What becomes of a pod.

use serde_json::Value;

use crate::{INJECT, INJECTED, KubernetesVersion, PORTS, UID};

/// What becomes of a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The pod with its sidecar.
    Patched(Value),
    /// It stays as it is.
    Skipped(Skip),
    /// It asks for a sidecar and cannot have one: it must not run without.
    Refused(Refusal),
}

/// Why a pod stays as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Neither it nor its namespace asks.
    #[error("neither the pod nor its namespace has `{INJECT}: enabled`")]
    NotAsked,
    /// It says no.
    #[error("the pod has `{INJECT}: disabled`")]
    OptedOut,
    /// It has a sidecar.
    #[error("the pod has its sidecar already")]
    AlreadyInjected,
    /// It shares the network of its node, where a redirect would take the node's traffic.
    #[error("the pod is in its node's network (hostNetwork)")]
    HostNetwork,
    /// The kubelet made it of a file on its node; what is in the API only shows it.
    #[error("the pod is a static pod of its node")]
    Static,
    /// It runs on Windows.
    #[error("the pod runs on Windows")]
    Windows,
    /// It is a proxy of a Gateway, which speaks for itself.
    #[error("the pod is a Gateway's")]
    Gateway,
}

/// Why a pod cannot have a sidecar, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is nothing to inject into.
    #[error("the pod has no spec with containers")]
    NoContainers,
    /// Neither yes nor no.
    #[error("`{INJECT}: {0}` says nothing: it has to be enabled or disabled")]
    Choice(String),
    /// Yes and no.
    #[error("the pod's label and its annotation `{INJECT}` contradict each other; remove one of them")]
    Contradiction,
    /// It knows no native sidecars.
    #[error("Kubernetes {0} has no native sidecars: a mesh needs 1.29 or newer; upgrade, or take `{INJECT}` away")]
    Kubernetes(KubernetesVersion),
    /// What it does would pass by the sidecar.
    #[error(
        "{0} runs as uid {UID}, which is the sidecar's: connections of that uid are not captured; give it another \
         runAsUser, or opt out with `{INJECT}: disabled`"
    )]
    Uid(String),
    /// Two cannot listen on it.
    #[error(
        "container `{container}` has the port {port}, and {}, {} and {} are the sidecar's; give it another one, or opt out \
         with `{INJECT}: disabled`", PORTS[0], PORTS[1], PORTS[2]
    )]
    Port {
        /// Whose it is.
        container: String,
        /// Which.
        port: u64,
    },
    /// The name is ours.
    #[error("the {what} name `{name}` is the injector's; give it another one, or opt out with `{INJECT}: disabled`")]
    Name {
        /// `container` or `volume`.
        what: &'static str,
        /// The name.
        name: String,
    },
    /// It claims to be meshed: callers would find no sidecar.
    #[error("only the injector sets the annotation `{INJECTED}`, and the pod has no sidecar; remove the annotation")]
    Claim,
    /// Two redirects in a pod take the traffic from each other.
    #[error("the pod has a sidecar of another mesh (container `{0}`); leave one of them out, ours with `{INJECT}: disabled`")]
    OtherMesh(String),
    /// The sidecar could not find the controller.
    #[error(
        "with `dnsPolicy: Default` the sidecar cannot find its controller, whose name only the cluster's DNS knows; use \
         ClusterFirst, or opt out with `{INJECT}: disabled`"
    )]
    Dns,
    /// A probe's port has no number.
    #[error("the {probe} of container `{container}` is for the port `{port}`, and the container has no port of that name")]
    ProbePort {
        /// Whose probe.
        container: String,
        /// `livenessProbe` and so on.
        probe: &'static str,
        /// The name.
        port: String,
    },
    /// An annotation of ours cannot be read.
    #[error("the annotation `{key}: {value}` cannot be read: {why}")]
    Annotation {
        /// Its key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        why: String,
    },
}
