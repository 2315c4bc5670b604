//! Where a comment quotes the specification, the specification says so.
//!
//! A quote is a run of comment lines that begin with `> `. It is looked for in the comments of upstream's Go types and in the
//! descriptions of its CRDs, with white space made even; a comment that names a GEP may quote that too. A comment that names a source
//! which is not at hand, an RFC above all, is not checked.

use std::path::{Path, PathBuf};
use std::{env, fs};

use super::{assert_none, files};

/// Sources that a comment may quote besides upstream.
const ELSEWHERE: [&str; 4] = ["RFC ", "W3C ", "OpenTelemetry", "semantic conventions"];

/// What upstream says, in one even line a text.
struct Upstream {
    texts: Vec<String>,
    geps: PathBuf,
}

/// A quote and the comment around it.
struct Quote {
    line: usize,
    text: String,
    comment: String,
}

#[test]
fn quotes_of_the_specification_are_in_it() {
    let upstream = Upstream::read();
    let (mut faults, mut found) = (Vec::new(), 0);
    for (path, text) in
        files().into_iter().filter(|(path, _)| path.starts_with("crates") && path.extension().is_some_and(|e| e == "rs"))
    {
        for quote in quotes(&text) {
            found += 1;
            if !ELSEWHERE.iter().any(|source| quote.comment.contains(source)) && !upstream.says(&quote) {
                faults.push(format!("{}:{}: upstream does not say: {}", path.display(), quote.line, quote.text));
            }
        }
    }
    assert_none(&faults);
    assert!(found > 20, "only {found} quotes were found: does the test still read them?");
}

impl Upstream {
    fn read() -> Self {
        let folder = env::var_os("ISTHMUS_UPSTREAM").map(PathBuf::from);
        let module = folder.map(|folder| folder.join("gateway-api@v1.7.0")).filter(|module| module.is_dir());
        let module = module
            .expect("ISTHMUS_UPSTREAM names no folder with upstream's gateway-api@v1.7.0; `./dev test` fetches it and sets that");
        let go = walk(&module.join("apis"))
            .into_iter()
            .chain(walk(&module.join("apisx")))
            .filter(|path| path.to_string_lossy().ends_with("_types.go"));
        let crds = walk(&module.join("config/crd")).into_iter().filter(|path| path.extension().is_some_and(|e| e == "yaml"));
        let texts: Vec<String> =
            go.map(|path| comments(&text(&path))).chain(crds.map(|path| even(&text(&path).replace("''", "'")))).collect();
        assert!(texts.len() > 20, "upstream has only {} files of types", texts.len());
        Self { texts, geps: module.join("geps") }
    }

    fn says(&self, quote: &Quote) -> bool {
        self.texts.iter().any(|text| text.contains(&quote.text)) || self.gep_says(quote)
    }

    fn gep_says(&self, quote: &Quote) -> bool {
        let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
        let named = quote.comment.split("GEP-").skip(1).map(digits).filter(|number| !number.is_empty());
        named.into_iter().any(|number| {
            let file = self.geps.join(format!("gep-{number}")).join("index.md");
            fs::read_to_string(file).is_ok_and(|text| even(&text).contains(&quote.text))
        })
    }
}

/// The quotes in a Rust file. An empty quoted line (`>`) parts two of them.
fn quotes(source: &str) -> Vec<Quote> {
    let lines: Vec<Option<&str>> = source.lines().map(comment_text).collect();
    let mut quotes = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let quoted = |line: &Option<&str>| line.and_then(|line| line.strip_prefix("> ")).is_some();
        if !quoted(&lines[at]) {
            at += 1;
            continue;
        }
        let length = lines[at..].iter().take_while(|line| quoted(line)).count();
        let words: Vec<&str> = lines[at..at + length].iter().flatten().map(|line| &line[2..]).collect();
        quotes.push(Quote { line: at + 1, text: unescaped(&even(&words.join(" "))), comment: around(&lines, at) });
        at += length;
    }
    quotes
}

/// The whole comment that this line is in.
fn around(lines: &[Option<&str>], at: usize) -> String {
    let before = lines[..at].iter().rev().take_while(|line| line.is_some()).count();
    lines[at - before..].iter().map_while(|line| *line).collect::<Vec<_>>().join(" ")
}

/// A comment line without its slashes; none for code.
fn comment_text(line: &str) -> Option<&str> {
    let line = line.trim();
    let text = line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).or_else(|| line.strip_prefix("//"))?;
    Some(text.strip_prefix(' ').unwrap_or(text))
}

/// Go comments, even; code between two of them keeps a quote from spanning both.
fn comments(source: &str) -> String {
    let lines = source.lines().map(|line| line.trim().strip_prefix("//").unwrap_or("\u{0}"));
    even(&lines.collect::<Vec<_>>().join("\n"))
}

/// With one space for any white space.
fn even(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// rustdoc takes some signs for links or HTML unless a backslash is before them.
fn unescaped(text: &str) -> String {
    text.replace("\\[", "[").replace("\\]", "]").replace("\\<", "<").replace("\\>", ">").replace("\\*", "*")
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

/// Every file below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
    let paths = entries.map(|entry| entry.expect("a folder can be read to its end").path());
    paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn quotes_are_read_from_comments() {
    let source = "/// Obeys RFC 9110.\n/// > one\n/// >  two\n///\n/// > three\nfn f() {}\n// > four \\[five\\]\n";
    let found: Vec<(usize, String, bool)> =
        quotes(source).into_iter().map(|quote| (quote.line, quote.text, quote.comment.contains("RFC "))).collect();
    let expected = [(2, "one two", true), (5, "three", true), (7, "four [five]", false)];
    assert_eq!(found, expected.map(|(line, text, rfc)| (line, text.to_owned(), rfc)));
}

#[test]
fn go_comments_do_not_join_over_code() {
    let text = comments("// one\n// two\ntype X struct {\n\t// three\n}\n");
    assert!(text.contains("one two"));
    assert!(!text.contains("two three"));
}
