//! `cargo xtask conformance`: upstream's suite against Isthmus on a real cluster, and the report that is committed.

mod images;
mod progress;
mod report;
mod sources;
mod suite;

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cluster::{Cluster, POOLS};
use crate::conformance::progress::Outcome;
use crate::conformance::report::Report;
use crate::conformance::suite::Run;
use crate::fault::{Context as _, Fault};
use crate::{process, workspace};

const CLASS: &str = "isthmus";

/// What is claimed.
const PROFILES: [&str; 7] =
    ["GATEWAY-HTTP", "GATEWAY-GRPC", "GATEWAY-TLS", "GATEWAY-TCP", "GATEWAY-UDP", "MESH-HTTP", "MESH-GRPC"];

/// What the profiles and the tests of the mesh begin with.
const MESH: [&str; 2] = ["MESH-", "Mesh"];

/// What of the mesh is claimed. The standard channel has no object in whose status the suite could read it.
const MESH_FEATURES: [&str; 10] = [
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

/// With it the pods of a namespace get a sidecar.
const INJECT: &str = "isthmus.dev/inject=enabled";

/// The address in our pool that GatewayStaticAddresses asks for: pools are given out from their start, and never come this far.
const USABLE: u32 = 250;
/// One that no pool has: it is for documentation (RFC 5737).
const UNUSABLE: &str = "192.0.2.1";

const URL: &str = "https://isthmus.dev";
const CONTACT: &str = "https://isthmus.dev/contact";

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Arguments {
    /// A profile of the suite, several times; without it: those that are claimed.
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<String>,
    /// Only this test, whatever features it needs.
    #[arg(long, value_name = "TEST")]
    run: Option<String>,
    /// Leave a test out, several times.
    #[arg(long, value_name = "TEST")]
    skip: Vec<String>,
    /// Twice in a row; different results are a failure.
    #[arg(long)]
    twice: bool,
    /// Leave the suite's base objects in the cluster, and with --run those of the test: the next --run starts sooner.
    #[arg(long)]
    keep: bool,
    /// Write the report into the project.
    #[arg(long, conflicts_with_all = ["profiles", "run", "skip", "check"])]
    report: bool,
    /// Fail if the report differs from the one in the project in more than its date and version.
    #[arg(long, conflicts_with_all = ["profiles", "run", "skip"])]
    check: bool,
    /// An address that the implementation can give to a Gateway; without it: one of the cluster's pool.
    #[arg(long, value_name = "ADDRESS")]
    usable_address: Option<String>,
    /// An address that it cannot give; without it: one for documentation.
    #[arg(long, value_name = "ADDRESS")]
    unusable_address: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    let binary = suite::binary()?;
    let cluster = cluster()?;
    if arguments.run.is_none() {
        clear(&cluster)?;
    }
    let results = workspace::root().join("target/conformance");
    fs::create_dir_all(&results).context(|| format!("making the folder {}", results.display()))?;
    let first = round(arguments, &cluster, &binary, &results.join("first"))?;
    let mut faults = first.faults();
    if arguments.twice {
        let second = round(arguments, &cluster, &binary, &results.join("second"))?;
        faults.extend(second.faults());
        faults.extend(first.run.differences(&second.run).into_iter().map(|line| format!("first run, not second: {line}")));
    }
    if let Some(report) = &first.report {
        if arguments.check {
            let committed = report.committed()?;
            faults.extend(report.differences(&committed).into_iter().map(|line| format!("not as committed: {line}")));
        }
        if arguments.report && faults.is_empty() {
            println!("written: {}", report.commit()?.display());
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(Fault::said(format!("conformance:\n  {}", faults.join("\n  ")))) }
}

/// Everything that is claimed, and that it is what the committed report says.
pub(crate) fn check() -> Result<(), Fault> {
    run(&Arguments { check: true, ..Arguments::default() })
}

/// One run of the suite and what it left.
struct Round {
    run: Run,
    /// There is none of a single test.
    report: Option<Report>,
    log: PathBuf,
}

impl Round {
    fn faults(&self) -> Vec<String> {
        let failed = self.run.ended.values().filter(|test| test.outcome == Outcome::Failed);
        let mut faults: Vec<String> = failed.map(|test| format!("{} failed", test.name)).collect();
        if faults.is_empty() && !self.run.success {
            faults.push(format!("the suite failed, though no test did: see {}", self.log.display()));
        }
        // A run of nothing is no success.
        if faults.is_empty() && self.run.count(Outcome::Passed) == 0 {
            faults.push(format!("no test ran: see {}", self.log.display()));
        }
        faults
    }
}

fn round(arguments: &Arguments, cluster: &Cluster, binary: &Path, results: &Path) -> Result<Round, Fault> {
    let (log, report) = (results.with_extension("log"), results.with_extension("report.yaml"));
    // Of an earlier run.
    if fs::exists(&report).unwrap_or(true) {
        fs::remove_file(&report).context(|| format!("removing {}", report.display()))?;
    }
    let mut run = suite::run(command(arguments, cluster, binary, &report)?, &log)?;
    if arguments.run.is_some() {
        run.ended.retain(|_, test| test.outcome != Outcome::Skipped);
    }
    println!();
    let report = if fs::exists(&report).unwrap_or(false) { Some(Report::read(&report)?) } else { None };
    if let Some(report) = &report {
        print!("{report}");
    }
    run.sum_up();
    println!("log: {}", log.display());
    Ok(Round { run, report, log })
}

/// Upstream's flags.
fn command(arguments: &Arguments, cluster: &Cluster, binary: &Path, report: &Path) -> Result<Command, Fault> {
    let mut flags = vec![
        ("gateway-class", CLASS.to_owned()),
        ("organization", CLASS.to_owned()),
        ("project", CLASS.to_owned()),
        ("url", URL.to_owned()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("contact", CONTACT.to_owned()),
        ("unusable-address", arguments.unusable_address.clone().unwrap_or_else(|| UNUSABLE.to_owned())),
    ];
    match &arguments.usable_address {
        Some(address) => flags.push(("usable-address", address.clone())),
        None if cluster.is_ours() => flags.push(("usable-address", usable())),
        None => eprintln!("GatewayStaticAddresses needs --usable-address with an address of yours"),
    }
    if !arguments.skip.is_empty() {
        flags.push(("skip-tests", arguments.skip.join(",")));
    }
    match &arguments.run {
        Some(test) => {
            flags.push(("run-test", test.clone()));
            if is_of_mesh(test) {
                flags.push(("namespace-labels", INJECT.to_owned()));
            }
        }
        None => {
            let profiles = arguments.profiles();
            flags.push(("conformance-profiles", profiles.join(",")));
            flags.push(("report-output", report.display().to_string()));
            // Of gateways alone nothing is said: the suite then reads the status of the GatewayClass itself.
            if profiles.iter().any(|profile| is_of_mesh(profile)) {
                flags.push(("namespace-labels", INJECT.to_owned()));
                flags.push(("supported-features", with_mesh(&of_class(cluster)?, &profiles).join(",")));
            }
        }
    }
    if arguments.keep {
        flags.push(("cleanup-base-resources", "false".to_owned()));
        if arguments.run.is_some() {
            flags.push(("cleanup-test-resources", "false".to_owned()));
        }
    }
    // A tool that is killed cannot end its children; the kernel can.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(binary).env("KUBECONFIG", cluster.kubeconfig());
    // The tests that may run beside each other mostly wait; how many do must not depend on the machine.
    command.args(["-test.v=test2json", "-test.count=1", "-test.timeout=75m", "-test.parallel=4", "-test.run=^TestConformance$"]);
    command.args(flags.iter().map(|(name, value)| format!("--{name}={value}")));
    Ok(command)
}

impl Arguments {
    fn profiles(&self) -> Vec<&str> {
        if self.profiles.is_empty() { PROFILES.to_vec() } else { self.profiles.iter().map(String::as_str).collect() }
    }
}

/// A profile or a test.
fn is_of_mesh(name: &str) -> bool {
    MESH.iter().any(|start| name.starts_with(start))
}

/// What the GatewayClass says in its status: a user sees in the cluster what the report says.
fn of_class(cluster: &Cluster) -> Result<String, Fault> {
    let names = "--output=jsonpath={.status.supportedFeatures[*].name}";
    process::capture(&mut cluster.kubectl(&["get", "gatewayclass", CLASS, names]))
}

/// The features of a run: those of the class and those of the mesh. Without a profile of gateways, none of their tests is to run and none of
/// their objects to be made, so the feature that all of them need is left out.
fn with_mesh<'f>(class: &'f str, profiles: &[&str]) -> Vec<&'f str> {
    let gateways = profiles.iter().any(|profile| !is_of_mesh(profile));
    class.split_whitespace().filter(|name| gateways || *name != "Gateway").chain(MESH_FEATURES).collect()
}

fn usable() -> String {
    let network: Ipv4Addr = POOLS[0].split('/').next().and_then(|address| address.parse().ok()).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Ipv4Addr::from_bits(network.to_bits() + USABLE).to_string()
}

/// The cluster as it is if Isthmus serves on it; else it is made, with Isthmus as the project has it now.
fn cluster() -> Result<Cluster, Fault> {
    let serves = |cluster: &Cluster| accepted(cluster, "5s").is_ok();
    let cluster = match Cluster::running() {
        Ok(cluster) if serves(&cluster) => cluster,
        _ => Cluster::up()?,
    };
    self::images(&cluster)?;
    accepted(&cluster, "120s")?;
    Ok(cluster)
}

/// Hands upstream's images to a cluster of ours.
pub(crate) fn images(cluster: &Cluster) -> Result<(), Fault> {
    if cluster.is_ours() {
        images::all()?.iter().try_for_each(|archive| cluster.import(archive))?;
    }
    Ok(())
}

fn accepted(cluster: &Cluster, patience: &str) -> Result<(), Fault> {
    let (class, patience) = (format!("gatewayclass/{CLASS}"), format!("--timeout={patience}"));
    process::capture(&mut cluster.kubectl(&["wait", "--for=condition=Accepted", &patience, &class])).map(drop)
}

/// Removes what a run that was killed left: a Gateway that is never programmed would hold up the next.
/// Only from a cluster of ours.
fn clear(cluster: &Cluster) -> Result<(), Fault> {
    if !cluster.is_ours() {
        return Ok(());
    }
    let listed = process::capture(&mut cluster.kubectl(&["get", "namespaces,gatewayclasses", "--output=name"]))?;
    let left: Vec<&str> = listed.lines().filter(|name| of_the_suite(name)).collect();
    if !left.is_empty() {
        eprintln!("removing what an earlier run left: {}", left.join(" "));
        process::capture(cluster.kubectl(&["delete", "--timeout=120s"]).args(left))?;
    }
    Ok(())
}

/// As `kubectl get --output=name` names it.
fn of_the_suite(name: &str) -> bool {
    ["namespace/gateway-conformance-", "namespace/gateway-api-", "gatewayclass.gateway.networking.k8s.io/gatewayclass-"]
        .iter()
        .any(|start| name.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_suite_makes_is_removed() {
        for (name, expected) in [
            ("namespace/gateway-conformance-infra", true),
            ("namespace/gateway-api-ls-cross-ns", true),
            ("gatewayclass.gateway.networking.k8s.io/gatewayclass-observed-generation-bump", true),
            ("gatewayclass.gateway.networking.k8s.io/isthmus", false),
            ("namespace/isthmus-system", false),
            ("namespace/kube-system", false),
        ] {
            assert_eq!(of_the_suite(name), expected, "{name}");
        }
    }

    #[test]
    fn the_mesh_is_claimed_in_one_place() {
        let source = workspace::root().join("crates/translate/src/features.rs");
        let text = fs::read_to_string(source).unwrap();
        let listed: Vec<&str> = text.lines().filter_map(|line| line.trim().strip_prefix('"')?.strip_suffix("\",")).collect();
        let of_mesh: Vec<&str> = listed.into_iter().filter(|name| is_of_mesh(name)).collect();
        assert_eq!(of_mesh, MESH_FEATURES);
    }

    #[test]
    fn a_run_of_the_mesh_alone_has_no_gateways() {
        let class = "Gateway HTTPRoute";
        let count = MESH_FEATURES.len();
        assert_eq!(with_mesh(class, &["MESH-HTTP"]), [&["HTTPRoute"][..], &MESH_FEATURES].concat());
        assert_eq!(with_mesh(class, &["MESH-HTTP", "GATEWAY-HTTP"]).len(), 2 + count);
        for (name, expected) in [("MeshPorts", true), ("MESH-GRPC", true), ("GATEWAY-TLS", false), ("HTTPRouteWeight", false)] {
            assert_eq!(is_of_mesh(name), expected, "{name}");
        }
    }

    #[test]
    fn the_usable_address_is_of_the_pool() {
        let usable = usable();
        assert!(usable.ends_with(".250"), "{usable}");
        assert_eq!(usable.rsplit_once('.').map(|(net, _)| net), POOLS[0].rsplit_once('.').map(|(net, _)| net));
    }
}
