//! Which files there are and what they say, kept up to date file by file.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::document::{self, SyntaxError};
use super::entry::Entry;

/// What to read: folders, files, and `-` for standard input.
#[derive(Debug)]
pub struct Folder {
    roots: Vec<PathBuf>,
    /// By the position of their root and their path, which is the order in which objects are read.
    files: BTreeMap<(usize, PathBuf), File>,
}

/// A file as it was read last.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// What it says, or said before it broke.
    pub entries: Arc<[Entry]>,
    /// Why it could not be read the last time.
    pub fault: Option<FileFault>,
    /// Of what was read, to tell whether it changed.
    pub(crate) digest: Option<u64>,
}

/// Why a file could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FileFault {
    /// It is no YAML.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// The system does not give it.
    #[error("cannot be read: {0}")]
    Io(String),
}

/// What has to be read again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These files; one that is gone is forgotten.
    Files(BTreeSet<PathBuf>),
    /// Everything.
    All,
}

/// Nothing to read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}; name a folder of YAML files, a file, or - for standard input")]
pub struct OpenError {
    path: String,
    source: std::io::Error,
}

/// What stands for standard input among the roots.
const STDIN: &str = "-";

impl Folder {
    /// Reads everything for the first time.
    ///
    /// # Errors
    /// When a root does not exist. A file that cannot be read is no error: see [`File::fault`].
    pub fn open(roots: &[PathBuf]) -> Result<Self, OpenError> {
        let failed = |path: &Path| {
            let path = path.display().to_string();
            move |source| OpenError { path, source }
        };
        let mut folder = Self { roots: Vec::new(), files: BTreeMap::new() };
        for root in roots {
            if root.as_os_str() == STDIN {
                let mut text = String::new();
                std::io::stdin().read_to_string(&mut text).map_err(failed(root))?;
                let mut file = File::default();
                file.take(Ok(text));
                folder.files.insert((folder.roots.len(), root.clone()), file);
            } else {
                std::fs::metadata(root).map_err(failed(root))?;
            }
            folder.roots.push(root.clone());
        }
        folder.refresh(&Change::All);
        Ok(folder)
    }

    /// Reads again what has changed, and says whether any of it says something else now.
    pub fn refresh(&mut self, change: &Change) -> bool {
        let names: BTreeSet<(usize, PathBuf)> = match change {
            Change::All => self.list(),
            Change::Files(paths) => paths.iter().filter(|path| !path.is_dir()).flat_map(|path| self.owners(path)).collect(),
        };
        let gone: Vec<_> = match change {
            Change::All => self
                .files
                .keys()
                .filter(|(_, path)| path.as_os_str() != STDIN)
                .filter(|key| !names.contains(key))
                .cloned()
                .collect(),
            Change::Files(_) => Vec::new(),
        };
        let mut changed = !gone.is_empty();
        for key in gone {
            self.files.remove(&key);
        }
        for key in names {
            match std::fs::read_to_string(&key.1) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => changed |= self.files.remove(&key).is_some(),
                text => changed |= self.files.entry(key).or_default().take(text),
            }
        }
        changed
    }

    /// Every file with what it says, in order.
    pub fn files(&self) -> impl Iterator<Item = (&Path, &File)> {
        self.files.iter().map(|((_, path), file)| (path.as_path(), file))
    }

    /// The files that could not be read the last time.
    pub fn broken(&self) -> BTreeSet<PathBuf> {
        self.files().filter(|(_, file)| file.fault.is_some()).map(|(path, _)| path.to_owned()).collect()
    }

    fn list(&self) -> BTreeSet<(usize, PathBuf)> {
        let mut names = BTreeSet::new();
        for (index, root) in self.roots.iter().enumerate().filter(|(_, root)| root.as_os_str() != STDIN) {
            if root.is_dir() {
                walk(root, 0, &mut |path| {
                    names.insert((index, tidy(&path)));
                });
            } else {
                names.insert((index, tidy(root)));
            }
        }
        names
    }

    fn owners(&self, path: &Path) -> Vec<(usize, PathBuf)> {
        let path = tidy(path);
        let owns = |root: &Path| path.strip_prefix(tidy(root)).is_ok_and(|rest| !is_hidden(rest));
        let roots = self.roots.iter().enumerate().filter(|(_, root)| root.as_os_str() != STDIN);
        roots.filter(|(_, root)| owns(root)).map(|(index, _)| (index, path.clone())).collect()
    }
}

/// Without the `.` steps, so that a path is the same whoever names it.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|step| *step != Component::CurDir).collect()
}

impl File {
    /// Takes a new text over; a text that is broken leaves the entries as they were.
    fn take(&mut self, text: std::io::Result<String>) -> bool {
        let digest = text.as_ref().ok().map(|text| digest(text));
        if digest.is_some() && self.digest == digest {
            return false;
        }
        self.digest = digest;
        let parsed = match text {
            Ok(text) => document::parse(&text).map_err(FileFault::Syntax),
            Err(error) => Err(FileFault::Io(error.to_string())),
        };
        match parsed {
            Ok(documents) => {
                self.entries = documents.into_iter().map(Entry::judge).collect();
                self.fault = None;
                true
            }
            Err(fault) => {
                let changed = self.fault.as_ref() != Some(&fault);
                self.fault = Some(fault);
                changed
            }
        }
    }
}

fn digest(text: &str) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Whether a file of a folder is read.
pub fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

/// Names that start with a dot are editors' and tools' own.
fn is_hidden(path: &Path) -> bool {
    path.iter().any(|part| part.as_encoded_bytes().starts_with(b"."))
}

/// Links may go round in circles.
const DEEPEST: usize = 32;

fn walk(folder: &Path, depth: usize, found: &mut impl FnMut(PathBuf)) {
    // A folder that vanishes or is closed to us has no files.
    let Ok(names) = std::fs::read_dir(folder) else { return };
    for name in names.flatten() {
        let path = name.path();
        if is_hidden(Path::new(&name.file_name())) {
            continue;
        }
        if path.is_dir() {
            if depth < DEEPEST {
                walk(&path, depth + 1, found);
            }
        } else if is_yaml(&path) {
            found(path);
        }
    }
}
