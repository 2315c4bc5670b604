//! From nothing to a cluster with DNS, and back.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::cluster::binaries::Binaries;
use crate::cluster::clock::Clock;
use crate::cluster::{before, certificates, host_ports, images, network, node, place, processes};
use crate::fault::{Context as _, Fault};
use crate::process;

/// gcc, which makes the pause program, is there: `./dev` wants it too.
const PACKAGES: [&str; 6] = ["runc", "containernetworking-plugins", "nftables", "iptables", "conntrack", "iproute2"];

/// Makes the cluster, or finds that it is up. What a killed run left behind is cleaned up first; after a fault everything stays for a look.
pub(super) fn up() -> Result<Binaries, Fault> {
    check_root()?;
    process::packages(&PACKAGES)?;
    let binaries = Binaries::all()?;
    let _alone = alone()?;
    if place::state().exists() {
        if running().is_ok() && node::serves(&binaries) {
            eprintln!("the cluster is up already");
            return Ok(binaries);
        }
        eprintln!("cleaning up after a cluster that is not whole");
        remove()?;
    }
    network::check_free()?;
    let clock = Clock::start();
    let made = make(&binaries, &clock);
    clock.sum("cluster");
    made.map_err(|fault| {
        let logs = place::of("logs");
        Fault::said(format!("{fault}\nlogs: {}; `cargo xtask cluster down` cleans up", logs.display()))
    })?;
    Ok(binaries)
}

/// Ends and removes everything; also what is left of a cluster that never came up.
pub(super) fn down() -> Result<(), Fault> {
    check_root()?;
    let _alone = alone()?;
    if !place::state().exists() {
        eprintln!("there is no cluster");
        return Ok(());
    }
    Clock::start().step("down", remove)
}

/// A fault if a program of the cluster does not run.
pub(super) fn running() -> Result<(), Fault> {
    if !place::state().exists() {
        return Err(Fault::said("there is no cluster: `cargo xtask cluster up` makes one"));
    }
    match node::PROGRAMS.iter().find(|name| !processes::runs(name)) {
        Some(name) => {
            let log = processes::log(name);
            Err(Fault::said(format!(
                "{name} does not run, see {}; `cargo xtask cluster up` makes the cluster anew",
                log.display()
            )))
        }
        None => Ok(()),
    }
}

fn make(binaries: &Binaries, clock: &Clock) -> Result<(), Fault> {
    let mut folder = fs::DirBuilder::new();
    folder.mode(0o700).create(place::state()).context(|| format!("making the folder {}", place::state().display()))?;
    before::remember()?;
    host_ports::remember()?;
    clock.step("certificates", certificates::write)?;
    clock.step("network", || network::make().and_then(|()| before::forward()))?;
    thread::scope(|scope| {
        let containers = scope.spawn(|| {
            let archives = clock.step("images of pause and DNS", || images::of_cluster(binaries))?;
            clock.step("containerd", || node::start_containerd(binaries))?;
            clock.step("import", || archives.iter().try_for_each(|archive| images::import(binaries, archive)))
        });
        let api = clock.step("etcd and API server", || node::start_api(binaries));
        let containers = containers.join().unwrap_or_else(|_| Err(Fault::said("starting containerd panicked")));
        api.and(containers)
    })?;
    node::start_rest(binaries)?;
    clock.step("node", || wait_for_node(binaries))?;
    clock.step("DNS", || start_dns(binaries))
}

fn wait_for_node(binaries: &Binaries) -> Result<(), Fault> {
    let registered = || process::capture(kubectl(binaries).args(["get", "node", place::NODE])).is_ok();
    processes::wait_until(&["kubelet", "kube-proxy"], node::PATIENCE, registered)?;
    process::capture(kubectl(binaries).args(["wait", "--for=condition=Ready", "--timeout=120s", "node", place::NODE])).map(drop)
}

fn start_dns(binaries: &Binaries) -> Result<(), Fault> {
    let manifest = place::place("manifests/coredns.yaml", "coredns.yaml")?;
    process::capture(kubectl(binaries).args(["apply", "--server-side", "--filename"]).arg(manifest))?;
    let rollout = ["rollout", "status", "--namespace=kube-system", "--timeout=120s", "deployment/coredns"];
    process::capture(kubectl(binaries).args(rollout)).map(drop)
}

fn kubectl(binaries: &Binaries) -> Command {
    let mut kubectl = binaries.command("kubectl");
    kubectl.env("KUBECONFIG", certificates::kubeconfig_path()).env("KUBECACHEDIR", place::of("clients/kubectl"));
    kubectl
}

/// Processes, mounts, network, settings, and the folder last: so it can be done again if it is interrupted.
fn remove() -> Result<(), Fault> {
    processes::end_all()?;
    unmount()?;
    network::remove()?;
    host_ports::remove()?;
    before::restore()?;
    fs::remove_dir_all(place::state()).context(|| format!("removing {}", place::state().display()))
}

/// Everything mounted in our folder: root file systems, volumes, network namespaces.
fn unmount() -> Result<(), Fault> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context(|| "reading /proc/self/mountinfo".to_owned())?;
    let ours: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .filter(|point| point.starts_with(place::state()))
        .collect();
    // Later ones may lie on earlier ones.
    ours.iter().rev().try_for_each(|point| process::capture(Command::new("umount").arg(point)).map(drop))
}

fn check_root() -> Result<(), Fault> {
    let user = fs::metadata("/proc/self").context(|| "reading /proc/self".to_owned())?.uid();
    if user == 0 {
        return Ok(());
    }
    Err(Fault::said(
        "a cluster on this machine needs root, for containers and network interfaces: run this with sudo, or name a cluster of yours in ISTHMUS_KUBECONFIG",
    ))
}

/// Waits until no other run of this tool makes or ends the cluster. The lock is on a folder that is always there, so it leaves nothing.
fn alone() -> Result<File, Fault> {
    let folder = place::state().parent().unwrap_or(place::state());
    let file = File::open(folder).context(|| format!("opening {}", folder.display()))?;
    file.lock().context(|| format!("locking {}", folder.display()))?;
    Ok(file)
}
