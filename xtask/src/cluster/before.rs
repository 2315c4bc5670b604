//! What the cluster's programs change outside its folder, and how the machine was before.

use std::fs;
use std::path::Path;

use crate::cluster::place;
use crate::fault::{Context as _, Fault};

/// Kernel settings that the kubelet, the network plugin or this tool change.
const SETTINGS: [&str; 8] = [
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];

/// Folders that are built into the programs, and what is above them: they go with all that is in them, or when they are empty.
const FOLDERS: [&str; 4] = ["/var/log/containers", "/var/lib/kubelet/device-plugins", "/var/lib/cni/results", "/run/mount"];
const PARENTS: [&str; 2] = ["/var/lib/kubelet", "/var/lib/cni"];

/// Remembers; call it before anything is changed.
pub(super) fn remember() -> Result<(), Fault> {
    let settings = SETTINGS.iter().filter_map(|name| Some(format!("{name} {}\n", read(name)?.trim())));
    place::write("before/settings", &settings.collect::<String>())?;
    let folders = FOLDERS.iter().chain(&PARENTS).filter(|path| Path::new(path).exists()).map(|path| format!("{path}\n"));
    place::write("before/folders", &folders.collect::<String>())?;
    Ok(())
}

/// Lets the node route, which is what it is for.
pub(super) fn forward() -> Result<(), Fault> {
    write("net/ipv4/ip_forward", "1")?;
    if place::pods().count() > 1 { write("net/ipv6/conf/all/forwarding", "1") } else { Ok(()) }
}

/// Puts back what was, as far as it was remembered.
pub(super) fn restore() -> Result<(), Fault> {
    let remembered = fs::read_to_string(place::of("before/settings")).unwrap_or_default();
    for (name, value) in remembered.lines().filter_map(|line| line.split_once(' ')) {
        if read(name).is_some_and(|now| now.trim() != value) {
            write(name, value)?;
        }
    }
    let Ok(there) = fs::read_to_string(place::of("before/folders")) else { return Ok(()) };
    let was_there = |path: &str| there.lines().any(|line| line == path);
    for path in FOLDERS.iter().filter(|path| Path::new(path).exists()) {
        if was_there(path) {
            remove_ours(Path::new(path))?;
        } else {
            fs::remove_dir_all(path).context(|| format!("removing {path}"))?;
        }
    }
    for path in PARENTS.iter().filter(|path| !was_there(path)) {
        // Not empty, or never made: then it is not ours to remove.
        let _kept = fs::remove_dir(path);
    }
    Ok(())
}

/// From a folder that was there before: links into our folder, and what the plugin library keeps for our network.
fn remove_ours(folder: &Path) -> Result<(), Fault> {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let is_link = fs::read_link(&path).is_ok_and(|target| target.starts_with(place::state()));
        let is_result = folder.ends_with("cni/results") && entry.file_name().to_string_lossy().starts_with("isthmus-cluster-");
        if is_link || is_result {
            fs::remove_file(&path).context(|| format!("removing {}", path.display()))?;
        }
    }
    Ok(())
}

fn read(name: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(name)).ok()
}

fn write(name: &str, value: &str) -> Result<(), Fault> {
    fs::write(Path::new("/proc/sys").join(name), value).context(|| format!("setting {name} to {value}"))
}
