//! YAML text -> its documents, with the line of every field.

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

/// One object of a file, or what stands where an object should be.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// As JSON, which is what an API server would be sent.
    pub value: Value,
    /// Where its fields are.
    pub lines: Lines,
}

/// The lines of a value and of everything within it, counted from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lines {
    line: u32,
    within: Within,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Within {
    Nothing,
    Items(Vec<Lines>),
    Fields(Vec<(String, Lines)>),
}

/// A text that is not YAML.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: {message}")]
pub struct SyntaxError {
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// What is wrong there.
    pub message: String,
}

/// Reads every document of a file; JSON is YAML. Empty documents are left out; a list (`kind: List`, `kind: HTTPRouteList`) becomes its items.
///
/// # Errors
/// When any of the text is not YAML: then nothing is known of the file, because a document that is cut short may look like a whole one.
pub fn parse(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let nodes: Vec<Node> = serde_saphyr::from_multiple_with_options(text, options()).map_err(|error| {
        let error = syntax_error(&error);
        SyntaxError { message: error.message + meant_for(text), ..error }
    })?;
    Ok(nodes.into_iter().flat_map(|node| expand(Document { value: node.value, lines: node.lines })).collect())
}

/// Does `work`, which parses, where the deepest text that is read fits on the stack: a level of nesting may take 40 KiB of it.
pub fn with_room(work: impl FnOnce() + Send) {
    let mut work = Some(work);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("yaml".to_owned()).stack_size(ROOM);
        // Without a thread it is done right here; whatever is there to be read is hardly ever deep.
        let _ = thread.spawn_scoped(scope, || work.take().map(|work| work()));
    });
    if let Some(work) = work {
        work();
    }
}

/// For 64 levels; untouched pages cost nothing.
const ROOM: usize = 16 << 20;

impl Lines {
    /// The line where the value starts.
    pub fn line(&self) -> u32 {
        self.line
    }

    /// The line of a field (`spec.rules[0].matches`), or of the innermost one around it that is there.
    pub fn of(&self, field: &str) -> u32 {
        let mut here = self;
        for step in field.split(['.', '[']).filter(|step| !step.is_empty()) {
            let step = step.trim_end_matches(']').trim_matches(['"', '\'']);
            let next = match &here.within {
                Within::Nothing => None,
                Within::Items(items) => step.parse().ok().and_then(|index: usize| items.get(index)),
                Within::Fields(fields) => fields.iter().find(|(name, _)| name == step).map(|(_, lines)| lines),
            };
            match next {
                Some(lines) => here = lines,
                None => break,
            }
        }
        here.line
    }
}

/// What a file's anchors and aliases may unfold into. A folder of manifests that share labels is far from it; a file that is made to
/// grow ninefold with every line is there at once.
const UNFOLDED: usize = 100_000;

/// The library's limits are for small files; those that stop a small file from becoming a huge one are closer than its own.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1_000_000,
            max_events: 100_000_000,
            max_nodes: 50_000_000,
            max_total_scalar_bytes: 1 << 30,
            max_total_comment_bytes: 1 << 30,
            max_buffered_comment_events: 100_000,
            max_recorded_anchor_events: UNFOLDED,
            // As deep as other nesting may be.
            flow_nesting_limit: 64,
            // One anchor may well serve a thousand objects.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: UNFOLDED },
        emit_comments: false,
        with_snippet: false,
    }
}

fn syntax_error(error: &serde_saphyr::Error) -> SyntaxError {
    let error = error.without_snippet();
    let coordinate = |value: u64| u32::try_from(value).unwrap_or(u32::MAX).max(1);
    let (line, column) = error.location().map_or((1, 1), |at| (coordinate(at.line()), coordinate(at.column())));
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    // The library ends its messages with the place, which stands in front of ours.
    let message = first.rsplit_once(" at line ").map_or(first, |(message, _)| message);
    // Some end with advice to who calls the library.
    let message = message.split_once(", set ").map_or(message, |(message, _)| message);
    SyntaxError { line, column, message: plain(message.trim_end_matches(':')).to_owned() }
}

/// The library's limits in words for people.
fn plain(message: &str) -> &str {
    let speaks_of = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if speaks_of(&["Depth {", "recursion limit"]) {
        "nested deeper than any object is"
    } else if speaks_of(&["RecordedAnchor", "alias replay"]) {
        "its aliases unfold into too much"
    } else {
        message
    }
}

/// Says what a text is that is no YAML, if it is for another program.
fn meant_for(text: &str) -> &'static str {
    if text.contains("{{") {
        "; this looks like a Helm template: `helm template CHART | isthmus run -` reads what it renders"
    } else {
        ""
    }
}

fn expand(document: Document) -> Vec<Document> {
    let kind = document.value.get("kind").and_then(Value::as_str).and_then(|kind| kind.strip_suffix("List")).map(str::to_owned);
    let Document { value: Value::Object(mut list), lines } = document else {
        return vec![document];
    };
    let (Some(kind), Some(Value::Array(_))) = (kind, list.get("items")) else {
        return vec![Document { value: Value::Object(list), lines }];
    };
    let places = lines.items_of("items");
    let api_version = list.remove("apiVersion");
    let Some(Value::Array(items)) = list.remove("items") else { return Vec::new() };
    items
        .into_iter()
        .enumerate()
        .flat_map(|(index, mut value)| {
            if let Value::Object(item) = &mut value
                && !kind.is_empty()
            {
                // An API server leaves both out of the items of a typed list.
                item.entry("kind").or_insert_with(|| Value::String(kind.clone()));
                if let Some(api_version) = &api_version {
                    item.entry("apiVersion").or_insert_with(|| api_version.clone());
                }
            }
            let lines = places.get(index).cloned().unwrap_or(Lines { line: lines.line, within: Within::Nothing });
            expand(Document { value, lines })
        })
        .collect()
}

impl Lines {
    fn items_of(&self, field: &str) -> Vec<Self> {
        let Within::Fields(fields) = &self.within else { return Vec::new() };
        match fields.iter().find(|(name, _)| name == field).map(|(_, lines)| &lines.within) {
            Some(Within::Items(items)) => items.clone(),
            _ => Vec::new(),
        }
    }
}

/// A value while it is read.
struct Node {
    value: Value,
    lines: Lines,
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Content>::deserialize(deserializer)?;
        let line = u32::try_from(spanned.referenced.line()).unwrap_or(u32::MAX);
        let Content(value, within) = spanned.value;
        Ok(Self { value, lines: Lines { line, within } })
    }
}

struct Content(Value, Within);

impl Content {
    fn scalar(value: impl Into<Value>) -> Self {
        Self(value.into(), Within::Nothing)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a value that JSON has")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::scalar(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::scalar(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::scalar(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Content, E> {
        Number::from_f64(value)
            .map(Content::scalar)
            .ok_or_else(|| E::custom("a number that JSON does not have; write it in quotes"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::scalar(value))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::scalar(value))
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let (mut values, mut places) = (Vec::new(), Vec::new());
        while let Some(node) = seq.next_element::<Node>()? {
            values.push(node.value);
            places.push(node.lines);
        }
        Ok(Content(Value::Array(values), Within::Items(places)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let (mut values, mut places) = (Map::new(), Vec::new());
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let mut node: Node = map.next_value()?;
            // People look for a field where its name is.
            node.lines.line = u32::try_from(key.referenced.line()).unwrap_or(u32::MAX);
            values.insert(key.value.clone(), node.value);
            places.push((key.value, node.lines));
        }
        Ok(Content(Value::Object(values), Within::Fields(places)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn documents_are_split_and_keep_their_lines() {
        let text = "# a comment\napiVersion: v1\nkind: Service\nmetadata:\n  name: a\n---\n---\n# only a comment\n---\nkind: Gateway\nspec:\n  listeners:\n  - name: http\n    port: 80\n  - name:\n      https\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0].value, json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}}));
        let lines = |document: usize, field: &str| documents[document].lines.of(field);
        for (document, field, line) in [
            (0, "", 2),
            (0, "kind", 3),
            (0, "metadata.name", 5),
            (0, "metadata.labels", 4),
            (1, "", 10),
            (1, "spec.listeners[0]", 13),
            (1, "spec.listeners[0].port", 14),
            (1, "spec.listeners[1].name", 15),
            (1, "spec.listeners[7].name", 12),
            (1, "nothing.like.it", 10),
        ] {
            assert_eq!(lines(document, field), line, "{document} {field}");
        }
    }

    #[test]
    fn scalars_are_what_an_api_server_would_be_sent() {
        let text = "int: 90\nbig: 18446744073709551615\nneg: -1\nfloat: 1.5\nyes: true\nquoted: \"80\"\nnothing:\ntext: 10s\nlist: [1, a]\nanchor: &x {a: 1}\nalias: *x\n7: seven\n";
        assert_eq!(
            parse(text).unwrap()[0].value,
            json!({"int": 90, "big": u64::MAX, "neg": -1, "float": 1.5, "yes": true, "quoted": "80", "nothing": null, "text": "10s",
                   "list": [1, "a"], "anchor": {"a": 1}, "alias": {"a": 1}, "7": "seven"})
        );
    }

    #[test]
    fn json_is_read_too() {
        let documents = parse("{\n  \"kind\": \"Service\",\n  \"metadata\": {\n    \"name\": \"a\"}}").unwrap();
        assert_eq!(documents[0].value, json!({"kind": "Service", "metadata": {"name": "a"}}));
        assert_eq!(documents[0].lines.of("metadata.name"), 4);
    }

    #[test]
    fn lists_become_their_items() {
        let text =
            "apiVersion: v1\nkind: List\nitems:\n- kind: A\n  x: 1\n- apiVersion: g/v1\n  kind: BList\n  items:\n  - y: 1\n";
        let documents = parse(text).unwrap();
        let values: Vec<_> = documents.iter().map(|document| document.value.clone()).collect();
        assert_eq!(values, [json!({"kind": "A", "x": 1}), json!({"apiVersion": "g/v1", "kind": "B", "y": 1})]);
        assert_eq!((documents[0].lines.of("x"), documents[1].lines.of("y")), (5, 9));
        assert_eq!(parse("kind: PriceList\nprices: []\n").unwrap().len(), 1, "no items: not a list");
    }

    #[test]
    fn syntax_errors_name_their_place() {
        for (text, line, column) in [
            ("a: 1\nb: [1, 2\nc: 3\n", 3, 2),
            ("a: 1\n b: 2\n", 2, 3),
            ("kind: A\n---\nkind: B\nx: \"open\n", 5, 1),
            ("a: 1\na: 2\n", 2, 1),
            ("a: *nowhere\n", 1, 4),
            ("a: .nan\n", 1, 4),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!((error.line, error.column), (line, column), "{text:?}: {error}");
            assert!(!error.message.is_empty() && !error.message.contains(['\n', ',']), "{error}");
        }
    }

    #[test]
    fn files_that_are_made_to_hurt_are_told_in_words() {
        let names: Vec<char> = ('a'..'m').collect();
        let grows = |pair: &[char]| format!("{}: &{0} [{}]\n", pair[1], vec![format!("*{}", pair[0]); 9].join(","));
        let bomb = "a: &a [x,x,x]\n".to_owned() + &names.windows(2).map(grows).collect::<String>();
        let deep = (0..100).map(|depth| " ".repeat(depth) + "a:\n").collect();
        for (text, expected) in [
            (bomb, "its aliases unfold into too much"),
            ("[".repeat(100_000), "nested deeper than any object is"),
            (deep, "nested deeper than any object is"),
            (
                "metadata:\n  name: {{ .Release.Name }}\n".to_owned(),
                "expected string scalar; this looks like a Helm template: `helm template CHART | isthmus run -` reads what it renders",
            ),
        ] {
            with_room(|| assert_eq!(parse(&text).unwrap_err().message, expected));
        }
    }

    #[test]
    fn one_anchor_may_serve_many() {
        let text =
            "labels: &labels {app: shop}\n".to_owned() + &(0..1_000).map(|n| format!("l{n}: *labels\n")).collect::<String>();
        assert_eq!(parse(&text).map(|documents| documents.len()), Ok(1));
    }

    #[test]
    fn a_big_file_is_no_fault() {
        let text = "# comment\n".repeat(200) + &"kind: A\nspec: {a: [1, 2, 3]}\n---\n".repeat(5_000);
        assert_eq!(parse(&text).unwrap().len(), 5_000);
    }
}
