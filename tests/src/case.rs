//! Case folders: `tests/cases/<area>/<case>/{input,snapshot,status,requests}.yaml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use isthmus_api::NamespacedName;
use isthmus_routing::Transport;
use serde::Deserialize;

/// A case folder.
#[derive(Debug)]
pub struct Case {
    /// `<area>/<case>`
    pub name: String,
    /// The folder.
    pub folder: PathBuf,
    /// The requests with what they should find.
    pub requests: Vec<Exchange>,
}

/// A request with what it should find.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Exchange {
    /// What is shown when it fails; default: method, host and path.
    pub name: Option<String>,
    /// `namespace/name`; default: the only Gateway of the case.
    pub gateway: Option<String>,
    /// The Service that is called, as a client in the mesh calls it (`namespace/name`); none: a Gateway is.
    pub service: Option<NamespacedName>,
    /// The client's namespace, for calls of a Service; default: `default`.
    pub from: Option<String>,
    /// The listener's port in the object, or the Service's; default: the first one.
    pub port: Option<u16>,
    /// 1 or 2; default: 1, for gRPC 2.
    pub http: Option<u8>,
    /// The server name of a TLS handshake; default: the host. An empty one sends none.
    pub sni: Option<String>,
    /// Default: GET, for gRPC POST.
    pub method: Option<String>,
    /// Default: `example.com`.
    #[serde(default = "default_host")]
    pub host: String,
    /// Path and query as they are sent.
    #[serde(default = "default_path")]
    pub path: String,
    /// Header lines; a list of values repeats the name.
    #[serde(default)]
    pub headers: BTreeMap<String, OneOrMany>,
    /// The request's body.
    #[serde(default)]
    pub body: String,
    /// Sends a gRPC request (POST, HTTP/2, content type, `te: trailers`, one empty message).
    #[serde(default)]
    pub grpc: bool,
    /// Opens a TLS connection with a line of text in it, and no HTTP.
    pub tls: Option<Hello>,
    /// Opens a TCP connection with a line of text in it.
    pub tcp: Option<Bare>,
    /// Sends a datagram.
    pub udp: Option<Bare>,
    /// The Secret of `options.yaml` whose certificate the client shows when it is asked for one.
    pub client: Option<NamespacedName>,
    /// How often it is sent; default: once.
    pub times: Option<u32>,
    /// What it should find.
    #[serde(default)]
    pub expect: Expect,
}

/// A connection with TLS.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The server name; none: none is sent.
    pub sni: Option<String>,
}

/// A connection or a datagram without any choice.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bare {}

/// What an exchange is made of.
#[derive(Debug, Clone, Copy)]
pub enum Speech<'e> {
    /// A request.
    Http,
    /// A connection with TLS and this server name.
    Tls(Option<&'e str>),
    /// A connection.
    Tcp,
    /// A datagram.
    Udp,
}

/// One text or several.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// What a request should find. Only what is given is compared.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Expect {
    /// The status code; default: 200, or 404 if `route` is null.
    pub status: Option<u16>,
    /// The route that answers: `HTTPRoute/namespace/name`.
    pub route: Option<String>,
    /// The rule's position.
    pub rule: Option<usize>,
    /// The Service that answers: `namespace/name`.
    pub backend: Option<String>,
    /// The backend's port, if a Service has several.
    pub backend_port: Option<u16>,
    /// The path and query that the backend sees.
    pub path: Option<String>,
    /// The Host that the backend sees.
    pub host: Option<String>,
    /// The protocol that the backend is asked in: `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: Option<String>,
    /// Request headers that the backend sees; `null`: absent.
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
    /// Response headers; `null`: absent.
    #[serde(default)]
    pub response: BTreeMap<String, Option<String>>,
    /// `grpc-status`, in trailers or, for trailers-only responses, in the header.
    pub grpc_status: Option<u32>,
    /// The Secret of `options.yaml` whose certificate the client is shown: the gateway's, or the backend's if TLS is passed on.
    pub certificate: Option<NamespacedName>,
    /// The server name that the backend is asked for in the handshake with it.
    pub backend_server_name: Option<String>,
    /// The Secret of `options.yaml` whose certificate the backend is shown.
    pub backend_client: Option<NamespacedName>,
    /// Shares by Service (`namespace/name`) or status code (or `refused`, of connections), for `times` > 1; each within 0.08 or a
    /// quarter of itself, whichever is more.
    #[serde(default)]
    pub shares: BTreeMap<String, f64>,
    /// Services that get a copy of each request.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Mirrored share by Service, for `times` > 1; same tolerance.
    #[serde(default)]
    pub mirror_shares: BTreeMap<String, f64>,
    /// The answer comes within this many milliseconds.
    pub within_ms: Option<u64>,
    /// The answer takes at least this many milliseconds.
    pub at_least_ms: Option<u64>,
    /// How often the backends are asked in total, retries included.
    pub tries: Option<usize>,
    /// Not checked by the match function alone: the answer is made before or after matching (a malformed request, a misdirected one).
    #[serde(default)]
    pub sockets_only: bool,
    /// No response comes: the port is closed, or, if a listener is there, its handshake fails or the connection is closed. To a datagram
    /// there is no answer.
    #[serde(default)]
    pub refused: bool,
}

fn default_host() -> String {
    "example.com".to_owned()
}

fn default_path() -> String {
    "/".to_owned()
}

impl OneOrMany {
    /// The texts.
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl Exchange {
    /// Names the exchange in a failure.
    pub fn title(&self) -> String {
        let made = || match self.speech() {
            Speech::Http => format!("{} {}{}", self.method(), self.host, self.path),
            other => format!(
                "{other:?} to port {}",
                self.port.map_or_else(|| "of the first listener".to_owned(), |port| port.to_string())
            ),
        };
        self.name.clone().unwrap_or_else(made)
    }

    /// The client's namespace if a Service is called; none: a Gateway is.
    pub fn from(&self) -> Option<&str> {
        self.service.as_ref().map(|_| self.from.as_deref().unwrap_or("default"))
    }

    /// What it is made of.
    pub fn speech(&self) -> Speech<'_> {
        match (&self.tls, &self.tcp, &self.udp) {
            (Some(hello), _, _) => Speech::Tls(hello.sni.as_deref()),
            (_, Some(_), _) => Speech::Tcp,
            (_, _, Some(_)) => Speech::Udp,
            _ => Speech::Http,
        }
    }

    /// What carries it.
    pub fn transport(&self) -> Transport {
        if self.udp.is_some() { Transport::Udp } else { Transport::Tcp }
    }

    /// The method that is sent.
    pub fn method(&self) -> &str {
        self.method.as_deref().unwrap_or(if self.grpc { "POST" } else { "GET" })
    }

    /// The status code that should come.
    pub fn status(&self) -> u16 {
        self.expect.status.unwrap_or(200)
    }

    /// Every header line that is sent, besides Host.
    pub fn header_lines(&self) -> Vec<(String, String)> {
        let mut lines: Vec<_> = self
            .headers
            .iter()
            .flat_map(|(name, values)| values.texts().iter().map(move |value| (name.to_ascii_lowercase(), value.clone())))
            .collect();
        if self.grpc {
            lines.push(("content-type".to_owned(), "application/grpc".to_owned()));
            lines.push(("te".to_owned(), "trailers".to_owned()));
        }
        lines
    }
}

/// The folder of all cases.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases")
}

/// All cases, sorted by name. `CASE=text` in the environment keeps those whose name contains the text.
///
/// # Errors
/// Names the file that cannot be read or parsed.
pub fn all() -> Result<Vec<Case>, String> {
    let filter = std::env::var("CASE").unwrap_or_default();
    let mut cases = Vec::new();
    for area in folders(&root())? {
        for folder in folders(&area)? {
            let name = format!("{}/{}", file_name(&area), file_name(&folder));
            if name.contains(&filter) {
                cases.push(Case { requests: requests(&folder)?, name, folder });
            }
        }
    }
    Ok(cases)
}

fn requests(folder: &Path) -> Result<Vec<Exchange>, String> {
    let file = folder.join("requests.yaml");
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
    serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", file.display()))
}

fn folders(parent: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    let mut folders: Vec<_> = entries.filter_map(Result::ok).map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Compares `actual` with the file, or writes it there if `UPDATE_EXPECT=1`.
///
/// # Errors
/// Shows the first lines that differ.
pub fn expect_file(file: &Path, actual: &str) -> Result<(), String> {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        return std::fs::write(file, actual).map_err(|error| format!("{}: {error}", file.display()));
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    if expected == actual {
        return Ok(());
    }
    let differing = expected.lines().zip(actual.lines()).take_while(|(a, b)| a == b).count();
    Err(format!(
        "{} differs from line {} on (UPDATE_EXPECT=1 rewrites it):\n  expected: {}\n  actual:   {}",
        file.display(),
        differing + 1,
        expected.lines().nth(differing).unwrap_or("<end>"),
        actual.lines().nth(differing).unwrap_or("<end>"),
    ))
}
