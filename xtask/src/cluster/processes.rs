//! The cluster's programs: they go on when this tool ends, and are ended by their id after a look that the id is still theirs.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::place;
use crate::fault::{Context as _, Fault};
use crate::process;

/// How long the kernel may take to end killed processes.
const END: Duration = Duration::from_secs(20);

/// Starts a program in a session of its own; what it says goes to `logs/<name>.log`.
pub(super) fn start(name: &str, command: &Command) -> Result<(), Fault> {
    let log = log(name);
    let folder = place::of("logs");
    fs::create_dir_all(&folder).context(|| format!("making the folder {}", folder.display()))?;
    let out = File::create(&log).context(|| format!("making the log {}", log.display()))?;
    let err = out.try_clone().context(|| format!("sharing the log {}", log.display()))?;
    // It becomes the program: this process does not lead a group, so setsid does not fork.
    let mut alone = Command::new("setsid");
    alone.arg(command.get_program()).args(command.get_args()).current_dir(place::state());
    // Nothing of the caller's: proxies, Go's settings, a kubeconfig.
    alone.env_clear().env("PATH", place::SEARCH_PATH);
    alone.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    let child = alone.stdin(Stdio::null()).stdout(out).stderr(err).spawn().context(|| format!("starting {name}"))?;
    let process = Process { id: child.id(), started: started(child.id()).unwrap_or_default() };
    place::write(&format!("processes/{name}"), &format!("{} {}\n", process.id, process.started))?;
    Ok(())
}

/// Where a program's output goes.
pub(super) fn log(name: &str) -> PathBuf {
    place::of("logs").join(format!("{name}.log"))
}

/// Waits until `ready` says so; fails as soon as one of `names` has ended, with the end of its log.
pub(super) fn wait_until(names: &[&str], patience: Duration, mut ready: impl FnMut() -> bool) -> Result<(), Fault> {
    let start = Instant::now();
    while !ready() {
        let ended = names.iter().find(|name| !runs(name));
        let why = if ended.is_some() {
            "ended before it was ready".to_owned()
        } else if start.elapsed() > patience {
            format!("was not ready after {} s", patience.as_secs())
        } else {
            thread::sleep(Duration::from_millis(50));
            continue;
        };
        let name = ended.or(names.first()).copied().unwrap_or_default();
        let said = process::tail(&fs::read_to_string(log(name)).unwrap_or_default(), 15);
        return Err(Fault::said(format!("{name} {why}{said}")));
    }
    Ok(())
}

/// Whether the program that was started under this name runs.
pub(super) fn runs(name: &str) -> bool {
    recorded(&place::of("processes").join(name)).is_some_and(Process::runs)
}

/// Ends every program that was started, then what containerd left to itself: its shims, and all that is in the pods' cgroups.
pub(super) fn end_all() -> Result<(), Fault> {
    let files = fs::read_dir(place::of("processes")).into_iter().flatten().flatten();
    let programs: Vec<Process> = files.filter_map(|file| recorded(&file.path())).collect();
    end(|| programs.iter().copied().filter(|process| process.runs()).map(|process| process.id).collect())?;
    // Twice: a shim may have started a container while its parent was being ended.
    for _ in 0..2 {
        end(shims)?;
        end(contained)?;
    }
    remove_cgroups()
}

/// Kills until `which` finds nothing any more.
fn end(which: impl Fn() -> Vec<u32>) -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        let ids = which();
        if ids.is_empty() {
            return Ok(());
        }
        if start.elapsed() > END {
            return Err(Fault::said(format!(
                "these processes do not end: {ids:?}; see `ps` for what they wait for, then run this again"
            )));
        }
        let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
        // One of them may have ended by itself in the meantime, which `kill` calls a failure.
        let _partly = Command::new("sh").args(["-c", "kill -KILL \"$@\" 2>/dev/null", "kill"]).args(&ids).status();
        thread::sleep(Duration::from_millis(20));
    }
}

/// An id alone may belong to somebody else by now; with the time it started at, it does not.
#[derive(Clone, Copy)]
struct Process {
    id: u32,
    /// In ticks since the machine started.
    started: u64,
}

impl Process {
    fn runs(self) -> bool {
        started(self.id) == Some(self.started)
    }
}

fn recorded(file: &Path) -> Option<Process> {
    let text = fs::read_to_string(file).ok()?;
    let (id, started) = text.trim().split_once(' ')?;
    Some(Process { id: id.parse().ok()?, started: started.parse().ok()? })
}

/// `None`: no such process, or only its exit status is left.
fn started(id: u32) -> Option<u64> {
    parse_started(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// See proc(5). The name in parentheses may hold anything.
fn parse_started(stat: &str) -> Option<u64> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    match *fields.first()? {
        "Z" | "X" => None,
        _ => fields.get(19)?.parse().ok(),
    }
}

/// The shims of our containerd: they name its socket on their command line.
fn shims() -> Vec<u32> {
    let socket = place::of("containerd.sock");
    let socket = socket.as_os_str().as_encoded_bytes();
    let ours = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let is_shim = words.next().is_some_and(|program| program.ends_with(b"containerd-shim-runc-v2"));
        is_shim && words.any(|word| word == socket) && started(*id).is_some()
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(ours).collect()
}

/// All processes in the pods' cgroups.
fn contained() -> Vec<u32> {
    let ids: BTreeSet<u32> = cgroups()
        .iter()
        .filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok())
        .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<u32>>())
        // 0: somebody in another namespace of process ids.
        .filter(|id| *id != 0 && started(*id).is_some())
        .collect();
    ids.into_iter().collect()
}

/// Makes the cgroup that the kubelet is told to work below, in each hierarchy.
pub(super) fn make_cgroups() -> Result<(), Fault> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(place::CGROUP);
        fs::create_dir_all(&folder).context(|| format!("making the cgroup {}", folder.display()))?;
        // A new cpuset is empty, and nothing can run in it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(parents) = fs::read_to_string(hierarchy.join(file)) {
                fs::write(folder.join(file), parents.trim()).context(|| format!("writing {file} of {}", folder.display()))?;
            }
        }
    }
    Ok(())
}

fn remove_cgroups() -> Result<(), Fault> {
    let start = Instant::now();
    loop {
        let left: Vec<PathBuf> = cgroups().into_iter().filter(|folder| fs::remove_dir(folder).is_err()).collect();
        if left.is_empty() {
            return Ok(());
        }
        if start.elapsed() > END {
            return Err(Fault::said(format!("cannot remove the cgroups {left:?}")));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Where controllers are mounted: one folder on cgroup v2, one for each controller on v1 or where both are used.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    parse_hierarchies(&mounts)
}

fn parse_hierarchies(mounts: &str) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (folder, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(folder))
        })
        .collect();
    folders.sort();
    folders.dedup();
    folders
}

/// Ours in each hierarchy with all below, deepest first.
fn cgroups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in hierarchies() {
        collect(&hierarchy.join(place::CGROUP), &mut found);
    }
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        collect(&entry.path(), found);
    }
    found.push(folder.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_is_read_past_any_name_and_the_dead_do_not_run() {
        let stat = |name: &str, state: &str| format!("12 ({name}) {state} 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20");
        for (name, state, expected) in [("sh", "S", Some(4711)), ("a) b (c", "R", Some(4711)), ("sh", "Z", None)] {
            assert_eq!(parse_started(&stat(name, state)), expected, "{name} {state}");
        }
    }

    #[test]
    fn hierarchies_of_both_versions() {
        let mixed = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(parse_hierarchies(mixed), ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from));
        assert_eq!(parse_hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n"), [PathBuf::from("/sys/fs/cgroup")]);
    }
}
