//! `cargo xtask chart`: what Helm makes of the chart, without a cluster. `tests/fast/chart.rs` has what needs no Helm.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::fault::Fault;
use crate::{cluster, process, workspace};

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// A Helm of your own, version 3 for instance, instead of the pinned one.
    #[arg(long, value_name = "PROGRAM")]
    helm: Option<PathBuf>,
}

/// A Helm that was built without its release's flags believes in another one.
const KUBERNETES: &str = "--kube-version=1.36.0";

/// Values, and the objects that they add to (+) or take from (-) those of the defaults.
const ACCEPTED: [(&[&str], &[&str]); 13] = [
    (&[], &[]),
    (
        &["--set=watchNamespaces={a,b}"],
        &[
            "+Role/a/isthmus-controller-isthmus-system",
            "+Role/b/isthmus-controller-isthmus-system",
            "+RoleBinding/a/isthmus-controller-isthmus-system",
            "+RoleBinding/b/isthmus-controller-isthmus-system",
        ],
    ),
    (&["--set=crds.install=false"], &["-CustomResourceDefinition//gatewayparameters.isthmus.dev"]),
    (&["--set=mesh.enabled=false"], &["-MutatingWebhookConfiguration//isthmus-injector-isthmus-system"]),
    (&["--set=gatewayClass.create=false"], &["-GatewayClass//isthmus"]),
    (&["--set=gatewayClass.name=edge"], &["-GatewayClass//isthmus", "+GatewayClass//edge"]),
    (&["--set-json=gatewayClass.parametersRef={\"namespace\": \"a\", \"name\": \"b\"}"], &[]),
    (&["--set=podDisruptionBudget.enabled=false"], &["-PodDisruptionBudget/isthmus-system/isthmus-controller"]),
    (&["--set=networkPolicy.enabled=false"], &["-NetworkPolicy/isthmus-system/isthmus-controller"]),
    (&["--set-json=networkPolicy.apiServerPorts=[]"], &[]),
    (&["--set=monitoring.serviceMonitor.enabled=true"], &["+ServiceMonitor/isthmus-system/isthmus-controller"]),
    (&["--set=monitoring.podMonitor.enabled=true"], &["+PodMonitor/isthmus-system/isthmus-gateway"]),
    (
        &["--set-json=gatewayParameters={\"addressPools\": [\"192.0.2.0/28\"], \"accessLog\": \"Off\"}"],
        &["+ConfigMap/isthmus-system/isthmus-parameters"],
    ),
];

/// Values that are refused, and where.
const REFUSED: [(&str, &str); 9] = [
    ("--set=replicsa=3", "replicsa"),
    ("--set=image.tga=dev", "/image"),
    ("--set=image.pullPolicy=Sometimes", "/image/pullPolicy"),
    ("--set=mesh.proxy.image.tga=dev", "/mesh/proxy/image"),
    ("--set=watchNamespaces=a", "/watchNamespaces"),
    ("--set=gatewayClass.parametersRef.name=b", "/gatewayClass/parametersRef"),
    ("--set=gatewayParameters.replica=3", "/gatewayParameters"),
    ("--set-json=gatewayParameters={\"replicas\": 1, \"autoscaling\": {}}", "/gatewayParameters"),
    ("--set-json=gatewayParameters.addressPools=[\"everything\"]", "/gatewayParameters/addressPools"),
];

/// Fails with the first that is not as it should be.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    let defaults = objects(arguments, &[])?;
    for (values, changes) in ACCEPTED {
        process::capture(helm(arguments)?.args(["lint", "--strict", KUBERNETES]).arg(chart()).args(values))?;
        let expected = changed(&defaults, changes);
        let actual = objects(arguments, values)?;
        if let Some(object) = actual.symmetric_difference(&expected).next() {
            let what = if expected.contains(object) { "is not made" } else { "is made" };
            return Err(Fault::said(format!("with {values:?}, {object} {what}")));
        }
    }
    for (value, place) in REFUSED {
        match template(arguments, &[value]) {
            Ok(_) => return Err(Fault::said(format!("{value} is not refused"))),
            Err(fault) if fault.to_string().contains(place) => {}
            Err(fault) => return Err(Fault::said(format!("{value} is refused for another reason than {place}: {fault}"))),
        }
    }
    Ok(())
}

fn changed(defaults: &BTreeSet<String>, changes: &[&str]) -> BTreeSet<String> {
    let (added, removed): (Vec<&str>, Vec<&str>) = changes.iter().partition(|change| change.starts_with('+'));
    let gone: BTreeSet<&str> = removed.iter().map(|change| &change[1..]).collect();
    let stays = defaults.iter().filter(|object| !gone.contains(object.as_str())).cloned();
    stays.chain(added.iter().map(|change| change[1..].to_owned())).collect()
}

/// `kind/namespace/name` of all objects.
fn objects(arguments: &Arguments, values: &[&str]) -> Result<BTreeSet<String>, Fault> {
    let rendered = template(arguments, values)?;
    let documents = rendered.split("\n---\n").filter(|document| document.lines().any(|line| line.starts_with("kind:")));
    let mut names = BTreeSet::new();
    for document in documents {
        let object: Value = serde_saphyr::from_str(document.trim_start_matches("---\n"))
            .map_err(|error| Fault::said(format!("with {values:?}, no YAML: {error}\n{document}")))?;
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let name = format!("{}/{}/{}", text("/kind"), text("/metadata/namespace"), text("/metadata/name"));
        if !names.insert(name.clone()) {
            return Err(Fault::said(format!("with {values:?}, {name} is made twice")));
        }
    }
    Ok(names)
}

fn template(arguments: &Arguments, values: &[&str]) -> Result<String, Fault> {
    let mut command = helm(arguments)?;
    command.args(["template", "isthmus", "--namespace", "isthmus-system", KUBERNETES]).arg(chart()).args(values);
    process::capture(&mut command)
}

fn helm(arguments: &Arguments) -> Result<Command, Fault> {
    arguments.helm.as_ref().map_or_else(cluster::helm, |program| Ok(Command::new(program)))
}

fn chart() -> PathBuf {
    workspace::root().join("charts/isthmus")
}
