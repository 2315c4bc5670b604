//! What Cargo and clippy cannot enforce about the project itself.

mod bad_input;
mod dependencies;
mod quotes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A longer file has more than one thing in it.
const LONGEST_FILE: usize = 600;

/// What has no place in a source file, with the reason. In pieces, so that this file does not name it.
const LEFTOVERS: [(&str, &str); 6] = [
    (concat!("TO", "DO"), "do it, or open an issue"),
    (concat!("FIX", "ME"), "mend it, or open an issue"),
    (concat!("#[", "ignore"), "a test that does not run proves nothing"),
    (concat!("dbg", "!("), "use tracing"),
    (concat!("to", "do!("), "write it"),
    (concat!("unimplemented", "!("), "write it"),
];

/// Hosts that packages come from: which one answers is the business of the machine's own settings.
const REGISTRIES: [&str; 8] = [
    concat!("arti", "factory"),
    concat!("index.crates", ".io"),
    concat!("static.crates", ".io"),
    concat!("proxy.golang", ".org"),
    concat!("sum.golang", ".org"),
    concat!("registry.npmjs", ".org"),
    concat!("files.python", "hosted.org"),
    concat!("deb.debian", ".org"),
];

/// The project's top folder.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are in a folder of the project")
}

/// Every text file that is, or is about to be, tracked: its path in the project, and its text.
fn files() -> Vec<(PathBuf, String)> {
    let mut git = Command::new("git");
    git.current_dir(root()).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.output().expect("git lists the project's files");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let mut paths: Vec<PathBuf> = names.split_terminator('\0').map(PathBuf::from).collect();
    paths.sort();
    paths.dedup();
    // A file that is tracked but deleted, and a file that is no text, has no lines to judge.
    paths.into_iter().filter_map(|path| Some((path.clone(), fs::read_to_string(root().join(path)).ok()?))).collect()
}

fn is_source(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("rs" | "py" | "go" | "sh")) || [Path::new("dev"), Path::new(".ci/run")].contains(&path)
}

/// Fails with all of them at once.
pub(crate) fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn files_are_short() {
    let sources = files().into_iter().filter(|(path, _)| is_source(path));
    let long = sources.map(|(path, text)| (path, text.lines().count())).filter(|(_, lines)| *lines > LONGEST_FILE);
    let faults: Vec<String> =
        long.map(|(path, lines)| format!("{}: {lines} lines, {LONGEST_FILE} at most", path.display())).collect();
    assert_none(&faults);
}

#[test]
fn nothing_is_left_over() {
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| is_source(path)) {
        for (number, line) in text.lines().enumerate() {
            let found = LEFTOVERS.iter().filter(|(word, _)| line.contains(word));
            faults.extend(found.map(|(word, why)| format!("{}:{}: {word}: {why}", path.display(), number + 1)));
        }
    }
    assert_none(&faults);
}

#[test]
fn no_machine_is_named() {
    let mut faults = Vec::new();
    for (path, text) in files() {
        for (number, line) in text.lines().enumerate() {
            let host = REGISTRIES.iter().find(|host| line.contains(*host)).map(|host| (*host).to_owned());
            faults.extend(host.or_else(|| machine_path(line)).map(|what| format!("{}:{}: {what}", path.display(), number + 1)));
        }
    }
    assert_none(&faults);
}

/// A path of the machine that something was written on: `work` or `root` at the top, or somebody's folder in `home`.
fn machine_path(line: &str) -> Option<String> {
    let starts = line.match_indices('/').filter(|(at, _)| {
        let before = line[..*at].chars().next_back();
        before.is_none_or(|before| before.is_whitespace() || "\"'`(=:".contains(before))
    });
    let paths = starts
        .map(|(at, _)| line[at + 1..].split(|c: char| c.is_whitespace() || "\"'`),".contains(c)).next().unwrap_or_default());
    paths.into_iter().find_map(|path| {
        let mut parts = path.split('/');
        let found = match (parts.next()?, parts.next(), parts.next()) {
            ("work" | "root", Some(_), _) => true,
            ("home", Some(user), Some(_)) => !user.is_empty(),
            _ => false,
        };
        found.then(|| format!("/{path}"))
    })
}

#[test]
fn machine_paths_are_recognised() {
    let top = |folder: &str| format!("see /{folder}/x/y");
    for (line, expected) in [(top("work"), true), (top("root"), true), (top("home"), true), (top("usr"), false)] {
        assert_eq!(machine_path(&line).is_some(), expected, "{line}");
    }
    assert_eq!(machine_path("GET /home"), None);
    assert_eq!(machine_path("crates/root/src"), None);
}

#[test]
fn pure_crates_share_one_list_of_forbidden_calls() {
    let lists = dependencies::PURE.map(|name| root().join("crates").join(name).join("clippy.toml"));
    let texts: Vec<String> = lists.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect();
    assert!(texts[0].contains("std::fs::read"), "{}: forbids no files", lists[0].display());
    for (path, text) in lists.iter().zip(&texts) {
        assert!(*text == texts[0], "{} differs from {}", path.display(), lists[0].display());
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut faults = Vec::new();
    for (path, text) in files().into_iter().filter(|(path, _)| path.extension().is_some_and(|extension| extension == "md")) {
        let folder = root().join(&path).parent().map(Path::to_owned).unwrap_or_default();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") && !folder.join(file).exists() {
                faults.push(format!("{}: {target} leads nowhere", path.display()));
            }
        }
    }
    assert_none(&faults);
}
