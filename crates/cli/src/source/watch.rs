//! Following edits: which files are worth reading again, and when.
//!
//! A file is read when its writer closes it, not while it is written. One that is removed or moved away may be an editor's way to
//! replace it, so it is missed only after a moment.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{Event, EventKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use super::read::{Change, is_yaml};

/// After a writer closed a file: others that it writes together with this one follow at once.
const CLOSED: Duration = Duration::from_millis(3);
/// After a file vanished.
const VANISHED: Duration = Duration::from_millis(30);
/// After a write, for writers that keep the file open.
const WRITTEN: Duration = Duration::from_millis(100);
/// Between two looks at the folder when the system cannot tell of changes.
const POLL: Duration = Duration::from_millis(500);

/// Tells of changes until it is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Dropping it ends the events.
    watcher: Option<notify::RecommendedWatcher>,
    watched: Vec<(PathBuf, RecursiveMode)>,
    events: mpsc::UnboundedReceiver<Event>,
    pending: Pending,
    /// One of the watched folders went away, and whatever comes back in its place is another one to the system.
    lost: bool,
    /// Why the system cannot tell of changes, so that the folder is looked at every half second.
    pub fallback: Option<String>,
}

impl Watch {
    /// Follows folders (with all folders in them) and single files. Standard input is not followed.
    pub fn start(roots: &[PathBuf]) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let watched: Vec<_> = roots.iter().filter(|root| root.is_file() || root.is_dir()).map(|root| watched(root)).collect();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // A lost event is made up for by reading everything.
            let event = event.unwrap_or_else(|_| Event::default().set_flag(notify::event::Flag::Rescan));
            // The other end is gone only when nobody wants to know.
            let _ = sender.send(event);
        })
        .and_then(|mut watcher| {
            watched.iter().try_for_each(|(path, mode)| watcher.watch(path, *mode))?;
            Ok(watcher)
        });
        let (watcher, fallback) = match watcher {
            Ok(watcher) => (Some(watcher), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Self { watcher, watched, events, pending: Pending::default(), lost: false, fallback }
    }

    /// The next change. Cancel safe: what was seen is kept for the next call.
    pub async fn next(&mut self) -> Change {
        if self.fallback.is_some() {
            tokio::time::sleep(POLL).await;
            return Change::All;
        }
        loop {
            let wait = self.pending.wait(Instant::now());
            tokio::select! {
                biased;
                event = self.events.recv() => match event {
                    Some(event) => {
                        self.lost |= took_a_folder(&event, &self.watched);
                        self.pending.note(&event, Instant::now());
                    }
                    None => std::future::pending().await,
                },
                () = tokio::time::sleep(POLL), if self.lost => if self.find_again() {
                    return Change::All;
                },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {
                    if let Some(change) = self.pending.take(Instant::now()) {
                        return change;
                    }
                }
            }
        }
    }

    /// Follows the folders that are there in place of those that were lost, and says whether all of them are.
    fn find_again(&mut self) -> bool {
        let Some(watcher) = &mut self.watcher else { return false };
        let found = self.watched.iter().all(|(path, mode)| {
            // One that was moved away would go on telling of itself. It may not be watched at all any more.
            let _ = watcher.unwatch(path);
            watcher.watch(path, *mode).is_ok()
        });
        self.lost = !found;
        found
    }
}

/// An editor may replace a file by another of the same name, which only its folder tells. The path is as events have it.
fn watched(root: &Path) -> (PathBuf, RecursiveMode) {
    let absolute = std::path::absolute(root).unwrap_or_else(|_| root.to_owned());
    if root.is_dir() {
        return (absolute, RecursiveMode::Recursive);
    }
    (absolute.parent().map_or(absolute.clone(), Path::to_owned), RecursiveMode::NonRecursive)
}

/// Whether the event is that one of the watched folders was removed or moved away.
fn took_a_folder(event: &Event, watched: &[(PathBuf, RecursiveMode)]) -> bool {
    let took = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
    took && watched.iter().any(|(folder, _)| event.paths.contains(folder))
}

/// What changed and when it is to be read.
#[derive(Debug, Default)]
struct Pending {
    /// None stands for everything.
    due: BTreeMap<Option<PathBuf>, Due>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    at: Instant,
    sign: Sign,
}

/// What an event says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Closed,
    Vanished,
    Written,
}

impl Sign {
    fn of(kind: &EventKind) -> Option<Self> {
        match kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                Some(Self::Closed)
            }
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => Some(Self::Written),
            EventKind::Modify(ModifyKind::Name(_)) | EventKind::Remove(_) => Some(Self::Vanished),
            _ => None,
        }
    }

    fn wait(self) -> Duration {
        match self {
            Self::Closed => CLOSED,
            Self::Vanished => VANISHED,
            Self::Written => WRITTEN,
        }
    }
}

impl Pending {
    fn note(&mut self, event: &Event, now: Instant) {
        if event.need_rescan() {
            self.set(None, Sign::Closed, now);
        }
        let Some(sign) = Sign::of(&event.kind) else { return };
        for path in &event.paths {
            if is_yaml(path) {
                self.set(Some(path.clone()), sign, now);
            } else if matches!(event.kind, EventKind::Create(_) | EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
                // A folder that comes or goes, or the hidden link behind which a mounted ConfigMap changes, brings files that are not named.
                self.set(None, Sign::Vanished, now);
            }
        }
    }

    /// The last sign counts, but a write puts off neither an earlier one nor what was whole.
    fn set(&mut self, path: Option<PathBuf>, sign: Sign, now: Instant) {
        let new = Due { at: now + sign.wait(), sign };
        match self.due.entry(path) {
            Entry::Vacant(entry) => {
                entry.insert(new);
            }
            Entry::Occupied(mut entry) => {
                if sign != Sign::Written || entry.get().sign == Sign::Vanished {
                    entry.insert(new);
                }
            }
        }
    }

    fn wait(&self, now: Instant) -> Option<Duration> {
        self.due.values().map(|due| due.at).min().map(|at| at.saturating_duration_since(now))
    }

    fn take(&mut self, now: Instant) -> Option<Change> {
        let due: Vec<_> = self.due.iter().filter(|(_, due)| due.at <= now).map(|(path, _)| path.clone()).collect();
        let mut files = BTreeSet::new();
        let mut all = false;
        for path in due {
            self.due.remove(&path);
            match path {
                Some(path) => {
                    files.insert(path);
                }
                None => all = true,
            }
        }
        match (all, files.is_empty()) {
            (true, _) => Some(Change::All),
            (false, false) => Some(Change::Files(files)),
            (false, true) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange, RemoveKind};

    use super::*;

    const CLOSE: EventKind = EventKind::Access(AccessKind::Close(AccessMode::Write));
    const WRITE: EventKind = EventKind::Modify(ModifyKind::Data(DataChange::Any));
    const FROM: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::From));
    const TO: EventKind = EventKind::Modify(ModifyKind::Name(RenameMode::To));
    const REMOVE: EventKind = EventKind::Remove(RemoveKind::File);
    const CREATE: EventKind = EventKind::Create(CreateKind::File);
    const FOLDER: EventKind = EventKind::Create(CreateKind::Folder);

    /// When, in milliseconds, a change is read after events at their milliseconds.
    fn read(events: &[(u64, EventKind, &str)]) -> Vec<(u64, Change)> {
        let start = Instant::now();
        let mut pending = Pending::default();
        let mut changes = Vec::new();
        let mut events = events.iter().peekable();
        for at in 0..500 {
            let now = start + Duration::from_millis(at);
            while let Some((_, kind, path)) = events.next_if(|(when, ..)| *when == at) {
                pending.note(&Event::new(*kind).add_path(PathBuf::from(path)), now);
            }
            if pending.wait(now) == Some(Duration::ZERO) {
                changes.extend(pending.take(now).map(|change| (at, change)));
            }
        }
        changes
    }

    fn files(paths: &[&str]) -> Change {
        Change::Files(paths.iter().map(PathBuf::from).collect())
    }

    #[test]
    fn a_file_is_read_when_it_is_whole() {
        for (why, events, expected) in [
            (
                "written and closed",
                vec![(0, WRITE, "a.yaml"), (5, WRITE, "a.yaml"), (9, CLOSE, "a.yaml")],
                vec![(12, files(&["a.yaml"]))],
            ),
            ("two at once", vec![(0, CLOSE, "a.yaml"), (0, CLOSE, "b.yaml")], vec![(3, files(&["a.yaml", "b.yaml"]))]),
            ("kept open", vec![(0, WRITE, "a.yaml")], vec![(100, files(&["a.yaml"]))]),
            ("renamed over", vec![(0, CLOSE, "a.yaml.swp"), (1, TO, "a.yaml")], vec![(4, files(&["a.yaml"]))]),
            ("removed", vec![(0, REMOVE, "a.yaml")], vec![(30, files(&["a.yaml"]))]),
            ("created, still empty", vec![(0, CREATE, "a.yaml"), (20, CLOSE, "a.yaml")], vec![(23, files(&["a.yaml"]))]),
            ("a folder", vec![(0, FOLDER, "sub")], vec![(30, Change::All)]),
            ("a link is swapped", vec![(0, TO, "..data")], vec![(30, Change::All)]),
            ("not ours", vec![(0, CLOSE, "notes.txt"), (1, WRITE, "a.yaml~")], vec![]),
            (
                "gone and slowly written again",
                vec![(0, FROM, "a.yaml"), (20, CREATE, "a.yaml"), (60, CLOSE, "a.yaml")],
                vec![(63, files(&["a.yaml"]))],
            ),
        ] {
            assert_eq!(read(&events), expected, "{why}");
        }
    }

    #[test]
    fn a_file_that_is_replaced_is_read_once_it_is_back() {
        // vim moves the old one away, writes a new one and removes the old one.
        let events =
            [(0, FROM, "a.yaml"), (0, TO, "a.yaml~"), (1, CREATE, "a.yaml"), (4, CLOSE, "a.yaml"), (5, REMOVE, "a.yaml~")];
        let changes = read(&events);
        assert_eq!(changes[0], (7, files(&["a.yaml"])));
        assert!(changes[1..].iter().all(|(_, change)| *change == Change::All), "{changes:?}");
    }

    #[test]
    fn lost_events_are_made_up_for() {
        let mut pending = Pending::default();
        let now = Instant::now();
        pending.note(&Event::default().set_flag(notify::event::Flag::Rescan), now);
        assert_eq!(pending.take(now + CLOSED), Some(Change::All));
    }

    #[tokio::test]
    async fn a_folder_that_goes_and_comes_back_is_followed_again() {
        let base = std::env::temp_dir().join(format!("isthmus-watch-again-{}", std::process::id()));
        let (folder, elsewhere) = (base.join("folder"), base.join("elsewhere"));
        std::fs::create_dir_all(&folder).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&folder));
        let mut next = async || tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
        std::fs::rename(&folder, &elsewhere).unwrap();
        assert_eq!(next().await, Change::All, "gone");
        std::fs::create_dir(&folder).unwrap();
        assert_eq!(next().await, Change::All, "back");
        std::fs::write(folder.join("a.yaml"), "a: 1\n").unwrap();
        assert_eq!(next().await, Change::Files([folder.join("a.yaml")].into()));
        std::fs::remove_dir_all(&base).unwrap();
    }

    #[tokio::test]
    async fn the_system_tells_of_edits() {
        let folder = std::env::temp_dir().join(format!("isthmus-watch-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut watch = Watch::start(std::slice::from_ref(&folder));
        assert_eq!(watch.fallback, None);
        let file = folder.join("a.yaml");
        std::fs::write(&file, "a: 1\n").unwrap();
        let change = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.unwrap();
        assert_eq!(change, Change::Files([file].into()));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
