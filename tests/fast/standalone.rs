//! `isthmus run FOLDER`: what a newcomer does first, done as they do it. Folders with their files, real sockets, the command itself.

mod kept;
mod mesh;
mod streams;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use isthmus_cli::source::watch::Watch;
use isthmus_cli::standalone::{Echoes, Settings, Standalone};
use isthmus_dataplane::Limits;
use isthmus_tests::bed::{Bed, options, own_address};
use isthmus_tests::case::Exchange;
use isthmus_tests::client::{self, Answer};
use serde_json::json;

/// Examples write 80 and 443.
const OFFSET: u16 = 20_000;

/// How long an edit may take on a machine that does other things. Alone it takes a few milliseconds.
const LIVE: Duration = Duration::from_secs(1);

/// A folder that is removed in the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("isthmus-fast-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder for temporary files");
        Self(folder)
    }

    /// A copy of an example.
    fn example(name: &str) -> Self {
        let scratch = Self::new();
        for file in std::fs::read_dir(example(name)).expect("the example").flatten() {
            std::fs::copy(file.path(), scratch.0.join(file.file_name())).expect("a copy");
        }
        scratch
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file is written");
    }

    fn replace(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.0.join(name)).expect("a file of the example");
        assert!(text.contains(from), "{name} has no `{from}`");
        self.write(name, &text.replace(from, to));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// A folder that is served and followed as `isthmus run --echo` does it.
struct Served {
    standalone: Standalone,
    watch: Watch,
    bed: Bed,
    address: Ipv4Addr,
}

impl Served {
    async fn start(folder: &Path) -> Self {
        Self::start_with(folder, true).await
    }

    async fn start_with(folder: &Path, dev_certificates: bool) -> Self {
        let address = match own_address() {
            std::net::IpAddr::V4(address) => address,
            std::net::IpAddr::V6(address) => panic!("{address} is no loopback address of version 4"),
        };
        let roots = [folder.to_owned()];
        let watch = Watch::start(&roots);
        let settings =
            Settings { echo: Echoes::Running, dev_certificates, port_offset: OFFSET, first_address: address, mesh: None };
        let standalone = Standalone::open(&roots, settings).await.expect("the folder is there");
        let bed = Bed::start(options(Limits::default())).await;
        bed.serve((*standalone.view().snapshot).clone()).await;
        Self { standalone, watch, bed, address }
    }

    /// Waits for the next change that makes a difference, serves it, and says how long after `since` it was live.
    async fn follow(&mut self, since: Instant) -> Duration {
        let change = async {
            loop {
                let change = self.watch.next().await;
                if self.standalone.refresh(&change).await {
                    break;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), change).await.expect("the edit is seen");
        self.bed.serve((*self.standalone.view().snapshot).clone()).await;
        since.elapsed()
    }

    /// Asks on a port of the examples.
    async fn ask(&self, port: u16, exchange: serde_json::Value) -> Answer {
        let socket = SocketAddr::new(self.address.into(), if port < 1024 { port + OFFSET } else { port });
        let exchange: Exchange = serde_json::from_value(exchange).expect("an exchange");
        client::send(socket, port == 443, &exchange)
            .await
            .unwrap_or_else(|fault| panic!("{socket} {}: {fault}", exchange.title()))
    }

    /// Which Service answers.
    async fn answers(&self, port: u16, exchange: serde_json::Value) -> String {
        let answer = self.ask(port, exchange).await;
        let grpc = answer.header("x-echo-service").map(str::to_owned);
        grpc.or_else(|| answer.echo()["service"].as_str().map(str::to_owned)).unwrap_or_else(|| answer.status.to_string())
    }

    fn messages(&self) -> Vec<String> {
        self.standalone.view().messages.iter().map(ToString::to_string).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shop_does_what_its_readme_says() {
    let shop = Served::start(&example("shop")).await;
    let host = "shop.localhost";
    let mut canaries = 0;
    for _ in 0..60 {
        canaries += u32::from(shop.answers(80, json!({"host": host})).await == "storefront-canary");
    }
    assert!((1..=15).contains(&canaries), "{canaries} of 60 are canaries; one in ten was asked for");
    for port in [80, 443] {
        let canary = shop.ask(port, json!({"host": host, "headers": {"x-canary": "yes"}})).await;
        assert_eq!(
            (canary.echo()["pod"].as_str(), canary.header("x-storefront")),
            (Some("storefront-canary-echo"), Some("canary"))
        );
        assert_eq!(shop.ask(port, json!({"host": host, "path": "/reviews"})).await.status, 500);
    }
    let api = "api.shop.localhost";
    assert_eq!(shop.ask(80, json!({"host": api, "path": "/v1/items?x=1"})).await.echo()["path"], "/items?x=1");
    let cors = shop.ask(80, json!({"host": api, "path": "/v1/", "headers": {"origin": "http://shop.localhost:8080"}})).await;
    assert_eq!(cors.header("access-control-allow-origin"), Some("http://shop.localhost:8080"));
    let slow = shop.ask(80, json!({"host": api, "path": "/v1/?delay=3s"})).await;
    assert_eq!(slow.status, 504);
    assert!(slow.took >= Duration::from_secs(2), "{:?}", slow.took);
    let redirect = shop.ask(80, json!({"host": "account.shop.localhost", "path": "/me"})).await;
    let location = format!("https://account.shop.localhost:{}/me", 443 + OFFSET);
    assert_eq!((redirect.status, redirect.header("location")), (301, Some(location.as_str())));
    assert_eq!(shop.answers(443, json!({"host": "account.shop.localhost"})).await, "account");
    for port in [80, 443] {
        let count = json!({"host": "inventory.shop.localhost", "path": "/shop.v1.Inventory/Count", "grpc": true});
        let answer = shop.ask(port, count).await;
        assert_eq!((answer.grpc_status(), answer.header("x-echo-service")), (Some(0), Some("inventory")));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_examples_do_what_their_readme_says() {
    let canary = Served::start(&example("canary")).await;
    let mut seen = std::collections::BTreeMap::<_, u32>::new();
    for _ in 0..60 {
        *seen.entry(canary.answers(8080, json!({})).await).or_default() += 1;
    }
    assert!(seen.len() == 2 && seen["app-v1"] > seen["app-v2"], "{seen:?}");

    let https = Served::start(&example("https")).await;
    for name in ["blue", "green"] {
        assert_eq!(https.answers(443, json!({"host": format!("{name}.localhost")})).await, name);
    }
    let redirect = https.ask(80, json!({"host": "blue.localhost"})).await;
    let location = format!("https://blue.localhost:{}/", 443 + OFFSET);
    assert_eq!((redirect.status, redirect.header("location")), (308, Some(location.as_str())));

    let grpc = Served::start(&example("grpc")).await;
    for (method, tenant, expected) in [
        ("Place", "", "orders-write"),
        ("List", "", "orders-read"),
        ("List", "beta", "orders-beta"),
        ("Place", "beta", "orders-write"),
    ] {
        let call = json!({"path": format!("/orders.v1.Orders/{method}"), "grpc": true, "headers": {"x-tenant": tenant}});
        assert_eq!(grpc.answers(8080, call).await, expected, "{method} {tenant}");
    }

    let mirror = Served::start(&example("mirror")).await;
    for _ in 0..10 {
        let answer = mirror.ask(8080, json!({})).await;
        assert_eq!(
            (answer.echo()["service"].as_str(), answer.echo()["headers"]["X-Edge"][0].as_str()),
            (Some("app"), Some("isthmus"))
        );
    }
}

#[test]
fn every_example_is_tested_here() {
    let mut names: Vec<_> = std::fs::read_dir(example(""))
        .expect("examples")
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["canary", "grpc", "https", "mesh", "mirror", "shop", "streams"], "a new example needs a test here");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_live_however_it_is_saved() {
    let scratch = Scratch::example("canary");
    let mut served = Served::start(&scratch.0).await;
    let good = std::fs::read_to_string(scratch.0.join("canary.yaml")).expect("the file");
    let only_v2 = good.replace("weight: 90", "weight: 0");
    let since = Instant::now();
    scratch.write("canary.yaml", &only_v2);
    let in_place = served.follow(since).await;
    for _ in 0..10 {
        assert_eq!(served.answers(8080, json!({})).await, "app-v2");
    }
    // As many editors do it: written elsewhere and moved into place.
    scratch.write("canary.yaml~", &good.replace("weight: 10", "weight: 0"));
    let since = Instant::now();
    std::fs::rename(scratch.0.join("canary.yaml~"), scratch.0.join("canary.yaml")).expect("a move");
    let moved = served.follow(since).await;
    for _ in 0..10 {
        assert_eq!(served.answers(8080, json!({})).await, "app-v1");
    }
    assert!(in_place < LIVE && moved < LIVE, "{in_place:?} {moved:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_broken_keeps_what_it_last_said() {
    let scratch = Scratch::example("canary");
    let mut served = Served::start(&scratch.0).await;
    let good = std::fs::read_to_string(scratch.0.join("canary.yaml")).expect("the file");
    for (broken, expected) in [
        (good.replace("name: app-v2\n          port", "name: app-v2\n         port"), "canary.yaml:33: column"),
        (
            good.replace("weight: 90", "weight: many"),
            "canary.yaml:31: HTTPRoute/default/app: spec.rules[0].backendRefs[0].weight: ",
        ),
        ("\u{0}\u{1}".to_owned(), "canary.yaml:1: column 1"),
    ] {
        let since = Instant::now();
        scratch.write("canary.yaml", &broken);
        served.follow(since).await;
        let messages = served.messages();
        assert!(messages[0].contains(expected) && messages[0].ends_with("stays in force"), "{messages:?}");
        assert!(served.answers(8080, json!({})).await.starts_with("app-v"), "{messages:?}");
        scratch.write("canary.yaml", &good);
        served.follow(since).await;
        assert_eq!(served.messages(), Vec::<String>::new());
    }
    // What is written a second time is named, and the first one counts.
    scratch.write("zz.yaml", &good.replace("weight: 90", "weight: 0"));
    let since = Instant::now();
    served.follow(since).await;
    let messages = served.messages();
    assert!(
        messages.iter().any(|message| message.contains("zz.yaml:20: HTTPRoute/default/app is already written at")),
        "{messages:?}"
    );
    assert_eq!(messages.len(), 5, "one for each object: {messages:?}");
    let routes = &served.standalone.view().snapshot.routes;
    assert!(routes.values().all(|route| route.rules[0].backends[0].weight == 90), "{routes:?}");
}

/// The command that `./dev test` has built beside this test.
fn isthmus() -> Command {
    let here = std::env::current_exe().expect("this test is a file");
    let command = here.ancestors().skip(2).map(|folder| folder.join("isthmus")).find(|path| path.is_file());
    Command::new(command.expect("the command is not built: cargo build --bin isthmus (./dev test does it)"))
}

fn once(flags: &[&str], paths: &[&Path]) -> Output {
    isthmus().arg("run").args(paths).arg("--once").args(flags).stdin(Stdio::null()).output().expect("isthmus runs")
}

#[test]
fn the_exit_code_is_for_a_pipeline() {
    let empty = Scratch::new();
    let stray = Scratch::new();
    stray.write("a.yaml", "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: HTTPRoute\nmetadata: {name: a}\n");
    let invalid = Scratch::example("canary");
    invalid.replace("canary.yaml", "port: 80\n          weight: 10", "port: 99999\n          weight: 10");
    for (path, code, said) in [
        (example("canary"), 0, ""),
        (example("canary/canary.yaml"), 0, ""),
        (
            example("shop"),
            1,
            "60-reviews.yaml:3: HTTPRoute/shop/reviews (parent shop/shop): ResolvedRefs=False BackendNotFound: ",
        ),
        (invalid.0.clone(), 1, "canary.yaml:33: HTTPRoute/default/app: spec.rules[0].backendRefs[1].port: "),
        (stray.0.clone(), 1, "write `kind: HTTPRoute` and `apiVersion: gateway.networking.k8s.io/v1`"),
        (empty.0.clone(), 2, "there is nothing to judge"),
        (PathBuf::from("no-such-folder"), 2, "no-such-folder: No such file or directory"),
    ] {
        for format in ["yaml", "json", "table"] {
            let output = once(&["--output", format, "--dev-certificates"], &[&path]);
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            assert_eq!(output.status.code(), Some(code), "{} {format}: {out}{err}", path.display());
            let place = if format == "table" && code < 2 { &out } else { &err };
            assert!(place.contains(said), "{} {format}: {place}", path.display());
            match format {
                "json" if code < 2 => {
                    assert!(serde_json::from_str::<serde_json::Value>(&out).is_ok_and(|list| list["kind"] == "List"));
                }
                "yaml" if code == 0 => assert!(out.contains("type: Programmed"), "{out}"),
                _ => {}
            }
        }
    }
}

#[test]
fn standard_input_and_a_closed_pipe() {
    let mut child = isthmus();
    child
        .args(["run", "-", "--once", "--output", "yaml"])
        .stdin(std::fs::File::open(example("canary/canary.yaml")).expect("the example"));
    let output = child.output().expect("isthmus runs");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("kind: HTTPRoute"));

    let mut child = isthmus()
        .arg("run")
        .arg(example("shop"))
        .args(["--once", "--output", "yaml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("isthmus runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("isthmus ends");
    assert_eq!(output.status.code(), Some(1), "no panic: {}", String::from_utf8_lossy(&output.stderr));
}
