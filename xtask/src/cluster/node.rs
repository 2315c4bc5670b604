//! The programs of the one node, with the flags that mattered, in the order that they start in.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::Duration;

use crate::cluster::binaries::Binaries;
use crate::cluster::{certificates, place, processes};
use crate::fault::{Context as _, Fault};
use crate::process;

pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Every program that goes on running.
pub(super) const PROGRAMS: [&str; 7] =
    ["containerd", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"];

/// Starts etcd and the API server and waits until it serves.
pub(super) fn start_api(binaries: &Binaries) -> Result<(), Fault> {
    processes::start("etcd", &etcd(binaries))?;
    // It waits for etcd by itself.
    processes::start("kube-apiserver", &api_server(binaries))?;
    processes::wait_until(&["kube-apiserver", "etcd"], PATIENCE, || serves(binaries))
}

/// Whether the API server says that it is ready.
pub(super) fn serves(binaries: &Binaries) -> bool {
    let mut kubectl = binaries.command("kubectl");
    kubectl.arg("--kubeconfig").arg(certificates::kubeconfig_path()).args(["get", "--raw", "/readyz", "--request-timeout=5s"]);
    process::capture(&mut kubectl).is_ok()
}

/// Starts containerd and waits until it answers.
pub(super) fn start_containerd(binaries: &Binaries) -> Result<(), Fault> {
    let config = place::place("config/containerd.toml", "containerd.toml")?;
    place::place("config/cni.conflist", "cni/10-isthmus.conflist")?;
    let plugin = place::place("config/no-dad", "plugins/no-dad")?;
    fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755))
        .context(|| format!("marking {} as a program", plugin.display()))?;
    let mut containerd = binaries.command("containerd");
    containerd.arg("--config").arg(config).env("PATH", binaries.search_path());
    processes::start("containerd", &containerd)?;
    let answers = || process::capture(ctr(binaries).arg("version")).is_ok();
    processes::wait_until(&["containerd"], PATIENCE, answers)
}

/// containerd's client, in the namespace that the kubelet uses.
pub(super) fn ctr(binaries: &Binaries) -> Command {
    let mut ctr = binaries.command("ctr");
    ctr.arg("--address").arg(place::of("containerd.sock")).args(["--namespace", "k8s.io"]);
    ctr
}

/// Starts what needs the API server and containerd.
pub(super) fn start_rest(binaries: &Binaries) -> Result<(), Fault> {
    processes::start("kube-controller-manager", &controller_manager(binaries))?;
    processes::start("kube-scheduler", &scheduler(binaries))?;
    // No server: what is not in the cluster has no address in it.
    place::write("resolv.conf", "")?;
    processes::make_cgroups()?;
    processes::start("kubelet", &kubelet(binaries)?)?;
    let config = place::place("config/kube-proxy.yaml", "kube-proxy.yaml")?;
    let mut proxy = binaries.command("kube-proxy");
    proxy.arg("--config").arg(config);
    processes::start("kube-proxy", &proxy)
}

fn etcd(binaries: &Binaries) -> Command {
    let mut etcd = binaries.command("etcd");
    let (clients, peers) = (format!("https://{}:2379", place::NODE_IP), format!("https://{}:2380", place::NODE_IP));
    flag(&mut etcd, "--name", place::NODE);
    flag(&mut etcd, "--data-dir", path("etcd"));
    for name in ["--listen-client-urls", "--advertise-client-urls"] {
        flag(&mut etcd, name, &clients);
    }
    for name in ["--listen-peer-urls", "--initial-advertise-peer-urls"] {
        flag(&mut etcd, name, &peers);
    }
    flag(&mut etcd, "--initial-cluster", format!("{}={peers}", place::NODE));
    for prefix in ["--", "--peer-"] {
        flag(&mut etcd, &format!("{prefix}cert-file"), path("pki/etcd.crt"));
        flag(&mut etcd, &format!("{prefix}key-file"), path("pki/etcd.key"));
        flag(&mut etcd, &format!("{prefix}trusted-ca-file"), path("pki/ca.crt"));
        etcd.arg(format!("{prefix}client-cert-auth"));
    }
    // What is lost with the machine is made anew in a minute.
    etcd.args(["--unsafe-no-fsync", "--log-level=warn"]);
    etcd
}

fn api_server(binaries: &Binaries) -> Command {
    let mut server = binaries.command("kube-apiserver");
    flag(&mut server, "--etcd-servers", format!("https://{}:2379", place::NODE_IP));
    // It shows the same certificate to clients, to etcd and to the kubelet.
    for (authority, certificate, key) in [
        ("--client-ca-file", "--tls-cert-file", "--tls-private-key-file"),
        ("--etcd-cafile", "--etcd-certfile", "--etcd-keyfile"),
        ("--kubelet-certificate-authority", "--kubelet-client-certificate", "--kubelet-client-key"),
    ] {
        flag(&mut server, authority, path("pki/ca.crt"));
        flag(&mut server, certificate, path("pki/kube-apiserver.crt"));
        flag(&mut server, key, path("pki/kube-apiserver.key"));
    }
    flag(&mut server, "--service-account-key-file", path("pki/tokens.pub"));
    flag(&mut server, "--service-account-signing-key-file", path("pki/tokens.key"));
    flag(&mut server, "--bind-address", place::NODE_IP);
    // A loopback address is refused here.
    flag(&mut server, "--advertise-address", place::NODE_IP);
    flag(&mut server, "--service-cluster-ip-range", place::services());
    server.args([
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--profiling=false",
    ]);
    server
}

fn controller_manager(binaries: &Binaries) -> Command {
    let mut manager = binaries.command("kube-controller-manager");
    flag(&mut manager, "--kubeconfig", path("kube-controller-manager.kubeconfig"));
    flag(&mut manager, "--bind-address", place::NODE_IP);
    flag(&mut manager, "--root-ca-file", path("pki/ca.crt"));
    flag(&mut manager, "--service-account-private-key-file", path("pki/tokens.key"));
    flag(&mut manager, "--cluster-signing-cert-file", path("pki/ca.crt"));
    flag(&mut manager, "--cluster-signing-key-file", path("pki/ca.key"));
    flag(&mut manager, "--cert-dir", path("pki"));
    // Its default is made in /usr.
    flag(&mut manager, "--flex-volume-plugin-dir", path("kubelet/volume-plugins"));
    manager.args(["--use-service-account-credentials=true", "--leader-elect=false", "--profiling=false"]);
    manager
}

fn scheduler(binaries: &Binaries) -> Command {
    let mut scheduler = binaries.command("kube-scheduler");
    for name in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
        flag(&mut scheduler, name, path("kube-scheduler.kubeconfig"));
    }
    flag(&mut scheduler, "--bind-address", place::NODE_IP);
    flag(&mut scheduler, "--cert-dir", path("pki"));
    scheduler.args(["--leader-elect=false", "--profiling=false"]);
    scheduler
}

fn kubelet(binaries: &Binaries) -> Result<Command, Fault> {
    let mut kubelet = binaries.command("kubelet");
    flag(&mut kubelet, "--config", place::place("config/kubelet.yaml", "kubelet.yaml")?.display());
    flag(&mut kubelet, "--kubeconfig", path("kubelet.kubeconfig"));
    flag(&mut kubelet, "--hostname-override", place::NODE);
    flag(&mut kubelet, "--node-ip", place::node_ips());
    flag(&mut kubelet, "--root-dir", path("kubelet"));
    flag(&mut kubelet, "--cert-dir", path("pki"));
    kubelet.env("PATH", binaries.search_path());
    Ok(kubelet)
}

fn flag(command: &mut Command, name: &str, value: impl std::fmt::Display) {
    command.arg(format!("{name}={value}"));
}

fn path(name: &str) -> String {
    place::of(name).display().to_string()
}
