//! Folders on disk and what follows from them.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(files: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-standalone-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let scratch = Self(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&scratch.0).unwrap();
        for (name, text) in files {
            scratch.write(name, text);
        }
        scratch
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    async fn open(&self, settings: Settings) -> Standalone {
        Standalone::open(std::slice::from_ref(&self.0), settings).await.unwrap()
    }

    /// The messages, with paths as they are in the folder.
    fn messages(&self, standalone: &Standalone) -> Vec<String> {
        let prefix = format!("{}/", self.0.display());
        standalone.view().messages.iter().map(|message| message.to_string().replace(&prefix, "")).collect()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const CLASS: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: GatewayClass\nmetadata: {name: isthmus}\nspec: {controllerName: isthmus.dev/gateway-controller}\n";
const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: app}\nspec: {ports: [{port: 80}]}\n";
const ROUTE: &str = "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: app}\nspec:\n  parentRefs: [{name: edge}]\n  rules:\n  - backendRefs: [{name: app, port: 80}]\n";

fn gateway(name: &str, port: u16) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}}}\nspec:\n  gatewayClassName: isthmus\n  listeners:\n  - {{name: http, port: {port}, protocol: HTTP}}\n"
    )
}

fn all(paths: &[&Path]) -> Change {
    if paths.is_empty() { Change::All } else { Change::Files(paths.iter().map(|path| path.to_path_buf()).collect()) }
}

fn gateways(standalone: &Standalone) -> Vec<String> {
    standalone.view().snapshot.gateways.iter().map(|(key, gateway)| format!("{} {:?}", key.name, gateway.addresses)).collect()
}

#[tokio::test]
async fn a_folder_becomes_a_snapshot() {
    let scratch = Scratch::new(&[
        ("b/route.yaml", ROUTE),
        ("class.yml", CLASS),
        (
            "gateway.json",
            r#"{"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge"}, "spec": {"gatewayClassName": "isthmus", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}"#,
        ),
        ("notes.txt", "not: [yaml"),
        (".hidden.yaml", "not: [yaml"),
        ("service.yaml", SERVICE),
    ]);
    let standalone = scratch.open(Settings { port_offset: 8000, ..Settings::default() }).await;
    let view = standalone.view();
    assert!(view.is_good(), "{:?}", view.messages);
    assert_eq!((view.origins.len(), view.snapshot.routes.len(), view.snapshot.backends.len()), (4, 1, 1));
    assert_eq!(view.snapshot.gateways.values().next().unwrap().listeners[0].port, 8080);
    assert!(view.snapshot.backends.values().all(|backend| backend.endpoints.is_empty()), "nobody answers without --echo");
}

#[tokio::test]
async fn edits_are_taken_over_file_by_file() {
    let scratch = Scratch::new(&[("all.yaml", &[CLASS, &gateway("edge", 8080), SERVICE].join("---\n")), ("route.yaml", ROUTE)]);
    let mut standalone = scratch.open(Settings::default()).await;
    let before = standalone.view().version;
    assert!(!standalone.refresh(&all(&[])).await, "nothing changed");

    scratch.write("more.yaml", &gateway("another", 8080));
    assert!(standalone.refresh(&all(&[&scratch.0.join("more.yaml")])).await);
    assert_eq!(gateways(&standalone), ["another [127.0.0.2]", "edge [127.0.0.1]"], "the new one does not move the old one");

    scratch.write("route.yaml", "kind: [");
    assert!(standalone.refresh(&all(&[&scratch.0.join("route.yaml")])).await);
    assert_eq!(standalone.view().snapshot.routes.len(), 1, "a broken file keeps what it said");
    assert_eq!(
        scratch.messages(&standalone),
        ["route.yaml:1: column 7: unclosed bracket '['; what the file said before stays in force"]
    );
    assert!(!standalone.view().is_good());

    std::fs::remove_file(scratch.0.join("more.yaml")).unwrap();
    scratch.write("route.yaml", ROUTE);
    assert!(standalone.refresh(&all(&[&scratch.0.join("more.yaml"), &scratch.0.join("route.yaml")])).await);
    assert!(standalone.view().is_good());
    assert_eq!(standalone.view().version, before, "the same objects give the same snapshot");
}

#[tokio::test]
async fn what_is_missing_is_said_with_what_to_do() {
    let orphan = ROUTE.replace("name: edge", "name: edg");
    let scratch = Scratch::new(&[("a.yaml", &gateway("edge", 8080)), ("b.yaml", &[&orphan, SERVICE].join("---\n"))]);
    let standalone = scratch.open(Settings::default()).await;
    let messages = scratch.messages(&standalone);
    assert!(
        messages[0].starts_with(
            "a.yaml:5: Gateway/default/edge: spec.gatewayClassName: there is no GatewayClass `isthmus`; write one: {"
        ),
        "{messages:?}"
    );
    assert_eq!(messages[1], "b.yaml:1: HTTPRoute/default/app routes nothing: there is no Gateway default/edg");
    assert!(!standalone.view().is_good());
}

#[tokio::test]
async fn echoes_stand_in_for_services_and_stay() {
    let scratch = Scratch::new(&[("all.yaml", &[CLASS, &gateway("edge", 8080), SERVICE, ROUTE].join("---\n"))]);
    let mut standalone = scratch.open(Settings { echo: Echoes::Running, ..Settings::default() }).await;
    let endpoint = |standalone: &Standalone| standalone.view().snapshot.backends.values().next().unwrap().endpoints[0].address;
    let before = endpoint(&standalone);
    assert!(std::net::TcpStream::connect(before).is_ok());
    scratch.write("more.yaml", &SERVICE.replace("app", "more"));
    assert!(standalone.refresh(&all(&[])).await);
    assert_eq!(endpoint(&standalone), before, "an edit elsewhere moves no echo");
    assert_eq!(standalone.view().echoes.len(), 2);
}

/// The folder that shows streams is good as it is, and its table says what leads where.
#[tokio::test]
async fn streams_have_their_place_in_the_table() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/streams");
    let settings = Settings { echo: Echoes::Running, dev_certificates: true, port_offset: 8000, ..Settings::default() };
    let standalone = Standalone::open(&[folder], settings).await.unwrap();
    let view = standalone.view();
    assert!(view.is_good(), "{:?} {:?}", statuses::problems(&view.statuses), view.messages);
    let lines: Vec<String> = crate::table::render(view, None).into_iter().map(|line| line.text).collect();
    for expected in [
        "  TLSRoute/default/vault  *.vault.localhost  on streams/goes-on",
        "  TCPRoute/default/postgres  on streams/postgres",
        "    *    -> postgres-primary:5432 90% (echo), postgres-replica:5432 10% (echo)",
        "  UDPRoute/default/dns  on streams/dns",
        "    *    -> mail:993 (echo) by TLS",
        "  ConfigMap/default/mail-authority is missing: the authority of this run stands in, which echoes are signed by",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected}\n{}", lines.join("\n"));
    }
}

#[tokio::test]
async fn listeners_that_cannot_be_opened_change_statuses_only() {
    let scratch = Scratch::new(&[("all.yaml", &[CLASS, &gateway("edge", 8080)].join("---\n"))]);
    let mut standalone = scratch.open(Settings::default()).await;
    let before = Arc::clone(&standalone.view().snapshot);
    let key = (GatewayKey { namespace: "default".into(), name: "edge".into() }, "http".to_owned());
    let unavailable = BTreeMap::from([(key, "in use".to_owned())]);
    assert!(standalone.set_unavailable(unavailable.clone()));
    assert!(!standalone.set_unavailable(unavailable), "no news");
    let problems = statuses::problems(&standalone.view().statuses);
    assert!(problems.iter().any(|problem| problem.condition.reason == "PortUnavailable"), "{problems:?}");
    assert_eq!(standalone.view().snapshot, before);
    assert!(standalone.set_unavailable(BTreeMap::new()));
    assert!(standalone.view().is_good());
}

#[tokio::test]
async fn collisions_of_moved_ports_are_faults() {
    let text = gateway("edge", 80) + "  - {name: native, port: 8080, protocol: HTTP}\n";
    let scratch = Scratch::new(&[("all.yaml", &[CLASS, &text].join("---\n"))]);
    let standalone = scratch.open(Settings { port_offset: 8000, ..Settings::default() }).await;
    let messages = scratch.messages(&standalone);
    assert!(messages[0].starts_with("Gateway/default/edge: listener http: port 80 moved by 8000 is 8080, which listener native of Gateway/default/edge has"), "{messages:?}");
    let problems = statuses::problems(&standalone.view().statuses);
    assert!(problems.iter().any(|problem| problem.condition.reason == "PortUnavailable"), "{problems:?}");
}

#[tokio::test]
async fn nothing_to_read_is_an_error() {
    let missing = Path::new("nothing-of-this-name").to_path_buf();
    let error = Standalone::open(&[missing], Settings::default()).await.unwrap_err().to_string();
    assert!(error.starts_with("nothing-of-this-name: ") && error.contains("name a folder"), "{error}");
}

#[tokio::test]
async fn a_folder_is_the_same_however_it_is_named() {
    let scratch = Scratch::new(&[("all.yaml", &[CLASS, &gateway("edge", 8080), SERVICE].join("---\n")), ("route.yaml", ROUTE)]);
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| "..").collect();
    let relative = up.join(scratch.0.strip_prefix("/").unwrap());
    let mut standalone = Standalone::open(std::slice::from_ref(&relative), Settings::default()).await.unwrap();
    scratch.write("route.yaml", &ROUTE.replace("name: app, port: 80", "name: nobody, port: 80"));
    // Events have the absolute path of what was watched.
    assert!(standalone.refresh(&all(&[&here.join(&relative).join("./route.yaml")])).await);
    assert_eq!(standalone.view().messages, [], "one file, not two");
    assert_eq!(standalone.view().snapshot.backends.len(), 0);
}

#[tokio::test]
async fn what_is_moved_away_keeps_what_it_said() {
    let scratch = Scratch::new(&[("folder/all.yaml", &[CLASS, &gateway("edge", 8080)].join("---\n"))]);
    let folder = scratch.0.join("folder");
    let mut standalone = Standalone::open(std::slice::from_ref(&folder), Settings::default()).await.unwrap();
    std::fs::rename(&folder, scratch.0.join("elsewhere")).unwrap();
    assert!(standalone.refresh(&all(&[&folder.join("all.yaml")])).await);
    assert_eq!(gateways(&standalone).len(), 1);
    assert_eq!(
        scratch.messages(&standalone),
        ["folder: cannot be read: No such file or directory (os error 2); what it said before stays in force"]
    );
    assert!(!standalone.refresh(&Change::All).await, "no news");
    std::fs::create_dir(&folder).unwrap();
    assert!(standalone.refresh(&Change::All).await);
    assert_eq!(gateways(&standalone).len(), 0, "it is back and empty");
}

#[tokio::test]
async fn pipes_and_circles_between_the_files_are_survived() {
    let scratch = Scratch::new(&[("all.yaml", CLASS), ("sub/gateway.yaml", &gateway("edge", 8080))]);
    let made = std::process::Command::new("mkfifo").arg(scratch.0.join("pipe.yaml")).status();
    assert!(made.is_ok_and(|status| status.success()));
    std::os::unix::fs::symlink(&scratch.0, scratch.0.join("sub/circle")).unwrap();
    std::fs::write(scratch.0.join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
    let standalone = scratch.open(Settings::default()).await;
    assert_eq!(
        scratch.messages(&standalone),
        ["binary.yaml: cannot be read: it is not text in UTF-8", "pipe.yaml: cannot be read: it is neither a file nor a folder"]
    );
    assert_eq!(gateways(&standalone).len(), 1);
}
