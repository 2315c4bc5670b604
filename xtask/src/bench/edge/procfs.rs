//! What the kernel knows of a process.

use std::fs;

use crate::fault::{Context as _, Fault};

/// `USER_HZ`, which Linux promises to programs.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU time of all its threads, in user and kernel mode.
pub(super) fn cpu_seconds(id: u32) -> Result<f64, Fault> {
    let path = format!("/proc/{id}/stat");
    let stat = fs::read_to_string(&path).context(|| format!("reading {path}"))?;
    ticks(&stat).map(|ticks| ticks as f64 / TICKS_PER_SECOND).ok_or_else(|| Fault::said(format!("{path} has another form")))
}

/// The same to the nanosecond, of those threads that are still there: what is short has hardly any clock ticks.
pub(in crate::bench) fn thread_seconds(id: u32) -> Result<f64, Fault> {
    let path = format!("/proc/{id}/task");
    let tasks = fs::read_dir(&path).context(|| format!("reading {path}"))?;
    let nanoseconds: u64 = tasks
        .filter_map(Result::ok)
        .filter_map(|task| fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    if nanoseconds == 0 { Err(Fault::said(format!("{path} tells no CPU time"))) } else { Ok(nanoseconds as f64 / 1e9) }
}

/// Bytes of memory, counted page by page: what `status` says is a guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::bench) struct Memory {
    /// Resident.
    pub(in crate::bench) rss: u64,
    /// The same, where a page that others have too counts for its share.
    pub(in crate::bench) pss: u64,
    /// What of it is not read from a file.
    pub(in crate::bench) anonymous: u64,
}

pub(in crate::bench) fn memory(id: u32) -> Result<Memory, Fault> {
    let path = format!("/proc/{id}/smaps_rollup");
    let rollup = fs::read_to_string(&path).context(|| format!("reading {path}"))?;
    let bytes = |name: &str| {
        let line = rollup.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| Fault::said(format!("{path} has another form")))
    };
    Ok(Memory { rss: bytes("Rss")?, pss: bytes("Pss")?, anonymous: bytes("Anonymous")? })
}

/// Resident memory in bytes.
pub(super) fn rss(id: u32) -> Result<u64, Fault> {
    memory(id).map(|memory| memory.rss)
}

/// How many files and sockets it has open.
pub(super) fn open_files(id: u32) -> Result<usize, Fault> {
    let path = format!("/proc/{id}/fd");
    Ok(fs::read_dir(&path).context(|| format!("reading {path}"))?.count())
}

/// `utime + stime`, the 14th and 15th field. The second is the name in parentheses, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_found_behind_any_name() {
        let rest = "S 1 2 3 0 -1 4194560 100 0 0 0 250 17 0 0 20 0 1 0 12345 1000 200";
        for name in ["nginx", "a b", ") S 1 2 (", "a)b"] {
            assert_eq!(ticks(&format!("42 ({name}) {rest}")), Some(267), "{name}");
        }
        assert_eq!(ticks("42 nginx"), None);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let memory = memory(std::process::id()).expect("is there");
        assert!(memory.rss > 100_000 && memory.rss >= memory.pss && memory.rss >= memory.anonymous, "{memory:?}");
        assert!(thread_seconds(std::process::id()).expect("is there") > 0.0);
        assert!(cpu_seconds(std::process::id()).expect("is there") >= 0.0);
        assert!(open_files(std::process::id()).expect("is there") >= 3);
    }
}
