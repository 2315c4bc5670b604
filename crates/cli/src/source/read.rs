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
    roots: Vec<Root>,
    /// By the position of their root and their path, which is the order in which objects are read.
    files: BTreeMap<(usize, PathBuf), File>,
}

/// A folder or a file that was named.
#[derive(Debug)]
struct Root {
    /// As it was named, which is how people know it.
    path: PathBuf,
    /// As the system names it in events.
    absolute: PathBuf,
    /// It can be read only once: standard input, or a pipe such as the shell's `<(...)`.
    once: bool,
}

/// A file as it was read last, or a folder that could not be.
#[derive(Debug, Clone, Default)]
pub struct File {
    /// What it says, or said before it broke.
    pub entries: Arc<[Entry]>,
    /// Why it could not be read the last time.
    pub fault: Option<FileFault>,
    /// It can be read only once, so that no edit of it is seen.
    pub once: bool,
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
    /// The system does not give a folder, or a file that was named, so that nothing is known of what is in it.
    #[error("cannot be read: {0}")]
    Missing(String),
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
        for path in roots {
            let is_stdin = path.as_os_str() == STDIN;
            let once = is_stdin || !is_kept(&std::fs::metadata(path).map_err(failed(path))?);
            if once {
                let mut text = String::new();
                let read = if is_stdin {
                    std::io::stdin().read_to_string(&mut text)
                } else {
                    std::fs::File::open(path).and_then(|mut pipe| pipe.read_to_string(&mut text))
                };
                read.map_err(failed(path))?;
                let file = folder.files.entry((folder.roots.len(), path.clone())).or_default();
                file.once = true;
                document::with_room(|| {
                    file.take(Ok(text));
                });
            }
            let absolute = std::path::absolute(path).map_err(failed(path))?;
            folder.roots.push(Root { path: path.clone(), absolute, once });
        }
        folder.refresh(&Change::All);
        Ok(folder)
    }

    /// Reads again what has changed, and says whether any of it says something else now.
    ///
    /// A folder or file that was named and is gone, and a folder that is closed to us, keep what they said: somebody is moving things, and
    /// routes are taken away one by one.
    pub fn refresh(&mut self, change: &Change) -> bool {
        match change {
            Change::Files(paths) if self.followed().all(|(_, root)| root.path.exists()) => {
                let names: BTreeSet<_> = paths.iter().filter(|path| !path.is_dir()).flat_map(|path| self.owners(path)).collect();
                self.read(names)
            }
            _ => self.refresh_all(),
        }
    }

    fn refresh_all(&mut self) -> bool {
        let Listing { files, closed } = self.list();
        let stays = |(index, path): &(usize, PathBuf)| {
            self.roots[*index].once || closed.iter().any(|((root, folder), _)| root == index && path.starts_with(folder))
        };
        let gone: Vec<_> = self.files.keys().filter(|key| !files.contains(key) && !stays(key)).cloned().collect();
        let mut changed = !gone.is_empty();
        for key in gone {
            self.files.remove(&key);
        }
        for ((index, folder), error) in closed {
            let within = |((root, path), file): (&(usize, PathBuf), &File)| {
                *root == index && path.starts_with(&folder) && !file.entries.is_empty()
            };
            let kept = if self.files.iter().any(within) { "; what it said before stays in force" } else { "" };
            let missing = self.files.entry((index, folder.clone())).or_default();
            missing.digest = None;
            changed |= missing.fail(FileFault::Missing(format!("{error}{kept}")));
        }
        changed | self.read(files)
    }

    fn read(&mut self, names: BTreeSet<(usize, PathBuf)>) -> bool {
        let mut changed = false;
        document::with_room(|| changed = self.read_here(names));
        changed
    }

    fn read_here(&mut self, names: BTreeSet<(usize, PathBuf)>) -> bool {
        let mut changed = false;
        for key in names {
            match read_text(&key.1) {
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

    /// The roots that may change.
    fn followed(&self) -> impl Iterator<Item = (usize, &Root)> {
        self.roots.iter().enumerate().filter(|(_, root)| !root.once)
    }

    fn list(&self) -> Listing {
        let mut listing = Listing::default();
        for (index, root) in self.followed() {
            match std::fs::metadata(&root.path) {
                Ok(metadata) if metadata.is_dir() => walk(&root.path, &mut Vec::new(), &mut |path, fault| {
                    let key = (index, tidy(path));
                    match fault {
                        None => drop(listing.files.insert(key)),
                        Some(error) => listing.closed.push((key, error.to_string())),
                    }
                }),
                Ok(_) => drop(listing.files.insert((index, tidy(&root.path)))),
                Err(error) => listing.closed.push(((index, tidy(&root.path)), error.to_string())),
            }
        }
        listing
    }

    /// The names under which a file is read, however it is named here.
    fn owners(&self, path: &Path) -> Vec<(usize, PathBuf)> {
        let Ok(path) = std::path::absolute(path) else { return Vec::new() };
        let owned = |(index, root): (usize, &Root)| {
            let rest = path.strip_prefix(&root.absolute).ok().filter(|rest| !is_hidden(rest))?;
            Some((index, tidy(&root.path.join(rest))))
        };
        self.followed().filter_map(owned).collect()
    }
}

/// What there is to read, and the folders (or named files) that are not to be had.
#[derive(Debug, Default)]
struct Listing {
    files: BTreeSet<(usize, PathBuf)>,
    closed: Vec<((usize, PathBuf), String)>,
}

/// Whether it can be read again and again.
fn is_kept(metadata: &std::fs::Metadata) -> bool {
    metadata.is_file() || metadata.is_dir()
}

fn read_text(path: &Path) -> std::io::Result<String> {
    // A pipe between the files would be waited for until somebody writes into it.
    if !is_kept(&std::fs::metadata(path)?) {
        return Err(std::io::Error::other("it is neither a file nor a folder"));
    }
    String::from_utf8(std::fs::read(path)?).map_err(|_| std::io::Error::other("it is not text in UTF-8"))
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
            Err(fault) => self.fail(fault),
        }
    }

    /// Leaves the entries as they were.
    fn fail(&mut self, fault: FileFault) -> bool {
        let changed = self.fault.as_ref() != Some(&fault);
        self.fault = Some(fault);
        changed
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

/// Names every file that is to be read, and every folder that cannot be. `above` are the folders around this one.
fn walk(folder: &Path, above: &mut Vec<PathBuf>, found: &mut impl FnMut(&Path, Option<std::io::Error>)) {
    let names = std::fs::canonicalize(folder).and_then(|real| Ok((real, std::fs::read_dir(folder)?)));
    let (real, names) = match names {
        Ok(names) => names,
        // It vanished after it was named.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => return found(folder, Some(error)),
    };
    // Links may go round in circles.
    if above.contains(&real) {
        return;
    }
    above.push(real);
    for name in names.flatten() {
        let path = name.path();
        if is_hidden(Path::new(&name.file_name())) {
            continue;
        }
        if path.is_dir() {
            walk(&path, above, found);
        } else if is_yaml(&path) {
            found(&path, None);
        }
    }
    above.pop();
}
