//! The CRDs of a cluster: which kinds it has, in which versions, from which release of the Gateway API.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use isthmus_api::Kind;
use isthmus_api::shared::GATEWAY_GROUP;
use kube::Client;
use kube::api::GetParams;
use kube::core::Request;
use serde::Deserialize;
use tokio::sync::watch;

use crate::watch::fault::{self, Backoff};
use crate::watch::resource::full_name;
use crate::watch::stream::in_time;

/// The minor releases of Gateway API v1 that are supported, first and last.
const SUPPORTED: (u32, u32) = (5, 7);

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// What the CRDs of a cluster say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bundle {
    /// The release: `v1.7.0`. None if the CRDs do not say it or there are none.
    pub version: Option<String>,
    /// `standard` or `experimental`.
    pub channel: Option<String>,
    /// The kinds that are there, with the API version to use: the first of [`Kind::versions`] that is served.
    pub versions: BTreeMap<Kind, &'static str>,
    /// The kinds that are there in other versions only, which are not read, with these.
    pub unread: BTreeMap<Kind, Vec<String>>,
    /// What makes all of this a guess: the CRDs cannot be read.
    pub fault: Option<String>,
    /// The releases that the other CRDs of the group name.
    pub others: BTreeSet<String>,
}

/// One CRD, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crd {
    resource_version: String,
    bundle_version: Option<String>,
    channel: Option<String>,
    served: Vec<String>,
}

impl Bundle {
    /// The API version in which to read and write a kind; none if the cluster does not have it. Kinds that need no CRD are
    /// always there.
    pub fn version_of(&self, kind: Kind) -> Option<&'static str> {
        if has_crd(kind) { self.versions.get(&kind).copied() } else { kind.versions().first().copied() }
    }

    /// The kinds that will not be served.
    pub fn missing(&self) -> Vec<Kind> {
        Kind::ALL.into_iter().filter(|kind| self.version_of(*kind).is_none()).collect()
    }

    /// The kinds that will not be served, each with its CRD and what there is to know of it.
    fn absent(&self) -> Vec<String> {
        let told = |kind: Kind| {
            let since = since(kind).map(|minor| format!("the Gateway API has it from v1.{minor} on"));
            let served = self.unread.get(&kind).map(|versions| format!("served as {} only", versions.join(", ")));
            let known: Vec<String> = served.into_iter().chain(since).collect();
            let name = full_name(kind);
            if known.is_empty() { name } else { format!("{name} ({})", known.join("; ")) }
        };
        // The standard channel has no meshes, and lacks nothing by that.
        self.missing().into_iter().filter(|kind| *kind != Kind::XMesh).map(told).collect()
    }

    /// Whether this release of the Gateway API is supported: the condition `SupportedVersion` of a GatewayClass.
    ///
    /// # Errors
    /// What is wrong, as a message of the condition.
    pub fn supported(&self) -> Result<(), String> {
        if let Some(fault) = &self.fault {
            return Err(format!("the version of the Gateway API's CRDs is not known: {fault}"));
        }
        let (first, last) = SUPPORTED;
        let wanted = format!("Isthmus supports v1.{first} to v1.{last}");
        let Some(version) = &self.version else {
            return Err(format!("the Gateway API's CRDs do not name their bundle version; {wanted}"));
        };
        match std::iter::once(version).chain(&self.others).find(|version| !is_supported(version)) {
            Some(version) => Err(format!("the Gateway API's CRDs are of {version}; {wanted}")),
            None => Ok(()),
        }
    }

    fn of(crds: &BTreeMap<Kind, Crd>) -> Self {
        let version = |(kind, crd): (&Kind, &Crd)| {
            let version = kind.versions().iter().copied().find(|version| crd.served.iter().any(|served| served == version));
            version.map(|version| (*kind, version))
        };
        let unread = |(kind, crd): (&Kind, &Crd)| {
            let is_read = crd.served.iter().any(|served| kind.versions().contains(&served.as_str()));
            (!is_read && !crd.served.is_empty()).then(|| (*kind, crd.served.clone()))
        };
        let standard: Vec<&Crd> = crds.iter().filter(|(kind, _)| kind.group() == GATEWAY_GROUP).map(|(_, crd)| crd).collect();
        let first = standard.first();
        Self {
            version: first.and_then(|crd| crd.bundle_version.clone()),
            channel: first.and_then(|crd| crd.channel.clone()),
            versions: crds.iter().filter_map(version).collect(),
            unread: crds.iter().filter_map(unread).collect(),
            fault: None,
            others: standard.iter().skip(1).filter_map(|crd| crd.bundle_version.clone()).collect(),
        }
    }

    /// All kinds in their preferred versions: what is not there is found out when it is listed.
    fn assumed(fault: String) -> Self {
        let version = |kind: Kind| kind.versions().first().map(|version| (kind, *version));
        let versions = Kind::ALL.into_iter().filter(|kind| has_crd(*kind)).filter_map(version).collect();
        Self { versions, fault: Some(fault), ..Self::default() }
    }

    fn tell(&self) {
        if let Some(fault) = &self.fault {
            tracing::warn!(%fault, "the CRDs cannot be read; every kind is assumed to be there");
            return;
        }
        let missing = self.absent().join(", ");
        let version = self.version.as_deref().unwrap_or("unknown");
        let channel = self.channel.as_deref().unwrap_or("unknown");
        tracing::info!(version, channel, "the Gateway API of the cluster");
        if !missing.is_empty() {
            tracing::warn!(%missing, "these kinds have no CRD here in a version that Isthmus reads, and are not served until they do");
        }
        if let Err(fault) = self.supported() {
            tracing::warn!(%fault, "this release of the Gateway API is not supported");
        }
    }
}

/// Reads the CRDs, and then again each `period`, until the receivers are gone. Returns after the first answer; while the API
/// server gives none, it is asked again.
pub async fn follow(client: Client, period: Duration) -> watch::Receiver<Arc<Bundle>> {
    let mut crds = BTreeMap::new();
    let bundle = loop {
        match read(&client, &mut crds).await {
            Ok(bundle) => break bundle,
            Err(fault) => {
                tracing::warn!(%fault, "the CRDs cannot be read; trying again");
                tokio::time::sleep(period.min(Duration::from_secs(1))).await;
            }
        }
    };
    bundle.tell();
    let (sender, receiver) = watch::channel(Arc::new(bundle));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = tokio::time::sleep(period) => {}
                () = sender.closed() => return,
            }
            match read(&client, &mut crds).await {
                // Rights that are made anew are missing for a moment, and what was read before says more than a guess.
                Ok(Bundle { fault: Some(fault), .. }) if sender.borrow().fault.is_none() => {
                    tracing::warn!(%fault, "the CRDs cannot be read any more; what was known of them stays");
                }
                Ok(bundle) => {
                    sender.send_if_modified(|known| {
                        let changed = **known != bundle;
                        if changed {
                            bundle.tell();
                            *known = Arc::new(bundle);
                        }
                        changed
                    });
                }
                Err(fault) => tracing::debug!(%fault, "the CRDs cannot be read; what was known of them stays"),
            }
        }
    });
    receiver
}

/// Reads what changed. An error is one that may pass.
async fn read(client: &Client, crds: &mut BTreeMap<Kind, Crd>) -> Result<Bundle, String> {
    for kind in Kind::ALL.into_iter().filter(|kind| has_crd(*kind)) {
        let known = crds.get(&kind).map(|crd| crd.resource_version.as_str());
        match persistent(client, kind, known).await {
            Ok(Answer::Unchanged) => {}
            Ok(Answer::Absent) => {
                crds.remove(&kind);
            }
            Ok(Answer::Changed(crd)) => {
                crds.insert(kind, crd);
            }
            Err(error) if fault::code(&error) == Some(403) => {
                let name = full_name(kind);
                return Ok(Bundle::assumed(format!(
                    "the controller's ClusterRole lacks the verb get for `customresourcedefinitions.apiextensions.k8s.io` with resource name {name}"
                )));
            }
            Err(error) => return Err(fault::describe(&error, "get", kind, None)),
        }
    }
    Ok(Bundle::of(crds))
}

/// Reads a CRD, some times again if it fails: all of them have to be read before the first is read anew.
async fn persistent(client: &Client, kind: Kind, known: Option<&str>) -> kube::Result<Answer> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
    loop {
        match crd(client, kind, known).await {
            Err(error) if fault::code(&error) != Some(403) && backoff.failures() < 3 => tokio::time::sleep(backoff.next()).await,
            answer => return answer,
        }
    }
}

enum Answer {
    Unchanged,
    Absent,
    Changed(Crd),
}

/// Reads a CRD: its metadata, and the rest (which may have a megabyte) if they changed.
async fn crd(client: &Client, kind: Kind, known: Option<&str>) -> kube::Result<Answer> {
    let requests = Request::new(CRDS);
    let name = full_name(kind);
    let request = requests.get_metadata(&name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    let metadata: Partial = match in_time(client.request(request)).await {
        Ok(metadata) => metadata,
        Err(error) if fault::code(&error) == Some(404) => return Ok(Answer::Absent),
        Err(error) => return Err(error),
    };
    if known == Some(metadata.metadata.resource_version.as_str()) {
        return Ok(Answer::Unchanged);
    }
    let request = requests.get(&name, &GetParams::default()).map_err(kube::Error::BuildRequest)?;
    match in_time(client.request::<Whole>(request)).await {
        Ok(whole) => Ok(Answer::Changed(whole.into())),
        Err(error) if fault::code(&error) == Some(404) => Ok(Answer::Absent),
        Err(error) => Err(error),
    }
}

#[derive(Deserialize)]
struct Partial {
    metadata: Metadata,
}

#[derive(Deserialize)]
struct Whole {
    metadata: Metadata,
    spec: Spec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Spec {
    versions: Vec<Version>,
}

#[derive(Deserialize)]
struct Version {
    name: String,
    served: bool,
}

impl From<Whole> for Crd {
    fn from(whole: Whole) -> Self {
        let annotation = |name: &str| whole.metadata.annotations.get(&format!("{GATEWAY_GROUP}/{name}")).cloned();
        Self {
            bundle_version: annotation("bundle-version"),
            channel: annotation("channel"),
            served: whole.spec.versions.into_iter().filter(|version| version.served).map(|version| version.name).collect(),
            resource_version: whole.metadata.resource_version,
        }
    }
}

/// The minor release of Gateway API v1 that is the first to have a kind in a version that Isthmus reads; none: all that are supported
/// have it.
fn since(kind: Kind) -> Option<u32> {
    match kind {
        Kind::TcpRoute | Kind::UdpRoute => Some(6),
        _ => None,
    }
}

/// Whether objects of this kind need a CRD.
fn has_crd(kind: Kind) -> bool {
    !matches!(kind.group(), "" | "discovery.k8s.io")
}

/// `v1.7.0`, `v1.6.0-rc.1`, `v1.7.1-dev`
fn is_supported(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split(['.', '-', '+']);
    let (major, minor) = (parts.next(), parts.next().and_then(|minor| minor.parse::<u32>().ok()));
    let (first, last) = SUPPORTED;
    major == Some("1") && minor.is_some_and(|minor| (first..=last).contains(&minor))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{Answer as Reply, Server};

    fn crd_of(version: &str, served: &[&str]) -> Crd {
        Crd {
            resource_version: "1".to_owned(),
            bundle_version: Some(version.to_owned()),
            channel: Some("standard".to_owned()),
            served: served.iter().map(|version| (*version).to_owned()).collect(),
        }
    }

    fn bundle(crds: &[(Kind, &str, &[&str])]) -> Bundle {
        Bundle::of(&crds.iter().map(|(kind, version, served)| (*kind, crd_of(version, served))).collect())
    }

    #[test]
    fn releases_that_are_supported() {
        for (version, expected) in [
            ("v1.7.0", true),
            ("v1.5.1", true),
            ("v1.6.0-rc.1", true),
            ("v1.4.0", false),
            ("v1.8.0", false),
            ("v2.6.0", false),
            ("main", false),
            ("", false),
        ] {
            assert_eq!(bundle(&[(Kind::Gateway, version, &["v1"])]).supported().is_ok(), expected, "{version}");
        }
        let message = |bundle: &Bundle| bundle.supported().unwrap_err();
        assert_eq!(
            message(&bundle(&[(Kind::Gateway, "v1.7.0", &["v1"]), (Kind::HttpRoute, "v1.2.1", &["v1"])])),
            "the Gateway API's CRDs are of v1.2.1; Isthmus supports v1.5 to v1.7"
        );
        assert_eq!(
            message(&Bundle::default()),
            "the Gateway API's CRDs do not name their bundle version; Isthmus supports v1.5 to v1.7"
        );
    }

    #[test]
    fn kinds_have_the_best_version_that_is_served() {
        let bundle = bundle(&[
            (Kind::Gateway, "v1.5.0", &["v1beta1", "v1"]),
            (Kind::ReferenceGrant, "v1.5.0", &["v1beta1"]),
            (Kind::GrpcRoute, "v1.5.0", &["v1alpha2"]),
        ]);
        for (kind, expected) in [
            (Kind::Gateway, Some("v1")),
            (Kind::ReferenceGrant, Some("v1beta1")),
            (Kind::GrpcRoute, None),
            (Kind::ListenerSet, None),
            (Kind::Service, Some("v1")),
            (Kind::EndpointSlice, Some("v1")),
        ] {
            assert_eq!(bundle.version_of(kind), expected, "{kind}");
        }
        assert!(bundle.missing().contains(&Kind::ListenerSet) && !bundle.missing().contains(&Kind::Secret));
    }

    #[test]
    fn kinds_that_are_not_served_are_told_with_the_reason() {
        let bundle = bundle(&[
            (Kind::Gateway, "v1.5.0", &["v1"]),
            (Kind::TlsRoute, "v1.5.0", &["v1", "v1alpha3"]),
            (Kind::TcpRoute, "v1.5.0", &["v1alpha2"]),
            (Kind::GrpcRoute, "v1.5.0", &[]),
        ]);
        assert_eq!(bundle.version_of(Kind::TlsRoute), Some("v1"));
        assert_eq!(bundle.version_of(Kind::TcpRoute), None);
        let told = bundle.absent();
        for expected in [
            "tcproutes.gateway.networking.k8s.io (served as v1alpha2 only; the Gateway API has it from v1.6 on)",
            "udproutes.gateway.networking.k8s.io (the Gateway API has it from v1.6 on)",
            "grpcroutes.gateway.networking.k8s.io",
            "backendtlspolicies.gateway.networking.k8s.io",
        ] {
            assert!(told.iter().any(|line| line == expected), "{expected}: {told:?}");
        }
        assert!(!told.iter().any(|line| line.starts_with("tlsroutes")), "{told:?}");
    }

    fn manifest(name: &str, resource_version: u64, served: bool) -> Value {
        let annotations =
            json!({"gateway.networking.k8s.io/bundle-version": "v1.6.0", "gateway.networking.k8s.io/channel": "standard"});
        json!({
            "metadata": {"name": name, "resourceVersion": resource_version.to_string(), "annotations": annotations},
            "spec": {"versions": [{"name": "v1", "served": served}, {"name": "v1beta1", "served": true}]},
        })
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_followed_and_only_changed_ones_are_read_whole() {
        let server = Server::new(|_| Reply::status(404, "no such CRD"));
        let (client, path) = (server.client(), format!("{CRDS}/httproutes.{GATEWAY_GROUP}"));
        server.set(&path, Reply::json(manifest("httproutes", 1, true)));
        let mut receiver = follow(client, Duration::from_secs(10)).await;
        assert_eq!(receiver.borrow().versions, BTreeMap::from([(Kind::HttpRoute, "v1")]));
        assert_eq!(receiver.borrow().version.as_deref(), Some("v1.6.0"));
        assert!(receiver.borrow().supported().is_ok());
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert_eq!(server.count(|call| call.path == path && !call.metadata_only), 1);
        assert!(server.count(|call| call.path == path && call.metadata_only) >= 4);
        server.set(&path, Reply::json(manifest("httproutes", 2, false)));
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow_and_update().version_of(Kind::HttpRoute), Some("v1beta1"));
        server.set(&path, Reply::status(500, "etcd"));
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert!(!receiver.has_changed().unwrap(), "what was known stays");
        server.set(&path, Reply::status(403, "forbidden"));
        tokio::time::sleep(Duration::from_secs(35)).await;
        assert!(!receiver.has_changed().unwrap(), "a guess says less than what was known");
        server.set(&path, Reply::status(404, "deleted"));
        receiver.changed().await.unwrap();
        assert_eq!(receiver.borrow().version_of(Kind::HttpRoute), None);
    }

    #[tokio::test(start_paused = true)]
    async fn crds_that_may_not_be_read_are_assumed() {
        let server = Server::new(|_| Reply::status(403, "forbidden"));
        let receiver = follow(server.client(), Duration::from_secs(10)).await;
        let bundle = receiver.borrow().clone();
        assert!(bundle.missing().is_empty());
        assert!(
            bundle.supported().unwrap_err().contains("lacks the verb get for `customresourcedefinitions.apiextensions.k8s.io`")
        );
    }
}
