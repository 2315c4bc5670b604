//! A Kubernetes API server in process, with a script of what goes wrong.
//!
//! Plain HTTP on loopback -> objects in memory, watches, and a log of calls. It does what a controller can tell: one counter of
//! versions, uids and generations, optimistic locking, pages, watches with bookmarks and initial events, status sub-resources, merge
//! and JSON patches, server-side apply, finalizers and garbage collection, CRDs that come and go, admission by the pinned CRDs.
//! Each client has a listening port of its own, so that a [`Fault`] or a [`Link`] can be about one of several controllers.
//!
//! What it leaves out: authentication, protobuf, `managedFields` in objects, collection deletes, schemas of other CRDs. Garbage is
//! collected in the same moment that makes it.

mod apply;
mod calls;
mod crds;
mod defaults;
mod delete;
mod discovery;
mod fault;
mod kinds;
mod read;
mod refusal;
mod request;
mod review;
mod selector;
mod serve;
mod status;
mod store;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use serde_json::{Value, json};

pub use calls::{Call, Select, Verb};
pub use crds::Bundle;
pub use fault::{Action, Fault, Rule};
pub use refusal::Refusal;
pub use review::Token;
pub use serve::Link;
pub use watch::Ending;

use fault::Live;
use kinds::Resource;
use serve::Port;
use store::Store;
use watch::Open;
use write::Ask;

/// How often a test looks again when nothing was written.
const LOOK: Duration = Duration::from_millis(5);

/// The server. It ends when dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    ports: tokio::sync::Mutex<BTreeMap<String, Port>>,
}

/// What all connections share.
#[derive(Debug, Default)]
struct Shared {
    store: Mutex<Store>,
    /// Says that something was written or scripted.
    changed: tokio::sync::watch::Sender<()>,
    rules: Mutex<Vec<Arc<Live>>>,
    calls: Mutex<Vec<Call>>,
    watches: Mutex<Vec<Weak<Open>>>,
}

impl Shared {
    fn log(&self, call: Call) {
        lock(&self.calls).push(call);
    }
}

impl Default for ApiServer {
    fn default() -> Self {
        Self::new()
    }
}

/// # Panics
/// The methods that change or look up objects panic when the object is refused or of a kind that is not served: a test that goes
/// on without it would prove nothing.
impl ApiServer {
    /// A server with the built-in kinds and the namespaces `default` and `kube-system`. Ports are opened as clients are made.
    pub fn new() -> Self {
        let server = Self { shared: Arc::default(), ports: tokio::sync::Mutex::default() };
        for name in ["default", "kube-system"] {
            server.apply(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
        }
        server
    }

    /// Installs the CRDs of a release, or goes from one release to another: CRDs that the new one lacks stay.
    pub fn install(&self, bundle: Bundle) {
        for crd in bundle.objects() {
            self.apply(crd);
        }
    }

    /// Installs a CRD without a schema.
    pub fn install_crd(&self, group: &str, plural: &str, kind: &str, namespaced: bool, versions: &[&str], status: bool) {
        self.apply(crds::crd(group, plural, kind, namespaced, versions, status));
    }

    /// Removes a CRD by its name, `httproutes.gateway.networking.k8s.io`, and with it all of its objects.
    pub fn uninstall(&self, name: &str) {
        self.delete("CustomResourceDefinition", name);
    }

    /// A client with a port of its own, which is opened when it is first named.
    pub async fn client(&self, name: &str) -> kube::Client {
        let url = self.url(name).await.parse().expect("an address is a URL");
        kube::Client::try_from(kube::Config::new(url)).expect("plain HTTP needs nothing")
    }

    /// Where a client's port is: `http://127.0.0.1:PORT`.
    pub async fn url(&self, name: &str) -> String {
        let mut ports = self.ports.lock().await;
        if !ports.contains_key(name) {
            let port = Port::open(name, Arc::clone(&self.shared)).await.expect("loopback has a free port");
            ports.insert(name.to_owned(), port);
        }
        format!("http://{}", ports[name].address)
    }

    /// A kubeconfig for programs that are no part of the test.
    pub async fn kubeconfig(&self, name: &str) -> String {
        let url = self.url(name).await;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\nclusters: [{{name: test, cluster: {{server: '{url}'}}}}]\n\
             users: [{{name: test, user: {{}}}}]\ncontexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n"
        )
    }

    /// Changes what a client's port is like.
    pub async fn set_link(&self, name: &str, link: Link) {
        self.url(name).await;
        self.ports.lock().await[name].link.send_replace(link);
    }

    /// What a client's port is like.
    pub async fn link(&self, name: &str) -> Link {
        self.url(name).await;
        *self.ports.lock().await[name].link.borrow()
    }

    /// Makes a rule.
    pub fn fault(&self, fault: Fault) -> Rule {
        let rule = Arc::new(Live::new(fault));
        lock(&self.shared.rules).push(Arc::clone(&rule));
        Rule(rule)
    }

    /// Lifts every rule.
    pub fn lift_all(&self) {
        for rule in std::mem::take(&mut *lock(&self.shared.rules)) {
            Rule(rule).lift();
        }
    }

    /// The calls that came and are selected, in the order of their effects.
    pub fn calls(&self, select: &Select) -> Vec<Call> {
        lock(&self.shared.calls).iter().filter(|call| select.matches(call)).cloned().collect()
    }

    /// Forgets the calls that came.
    pub fn forget_calls(&self) {
        lock(&self.shared.calls).clear();
    }

    /// How many watches are open that are selected.
    pub fn watches(&self, select: &Select) -> usize {
        lock(&self.shared.watches).iter().filter_map(Weak::upgrade).filter(|watch| select.matches(&watch.call)).count()
    }

    /// Ends the watches that are selected.
    pub fn end_watches(&self, select: &Select, ending: Ending) {
        for watch in lock(&self.shared.watches).iter().filter_map(Weak::upgrade).filter(|watch| select.matches(&watch.call)) {
            *lock(&watch.ending) = Some(ending);
        }
        self.shared.changed.send_replace(());
    }

    /// Forgets the past, so that watches and pages from there are answered with 410.
    pub fn compact(&self) {
        lock(&self.shared.store).compact();
    }

    /// The version of the last write.
    pub fn version(&self) -> u64 {
        lock(&self.shared.store).version()
    }

    /// Lets a bearer token stand for somebody.
    pub fn set_token(&self, token: &str, whose: Token) {
        lock(&self.shared.store).tokens.insert(token.to_owned(), whose);
    }

    /// Creates or replaces the objects of a YAML text, each with its status if it has one. Namespaces that are missing are made.
    pub fn apply_yaml(&self, text: &str) {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text).expect("the text is YAML");
        for document in documents.into_iter().filter(|document| !document.is_null()) {
            self.apply(document);
        }
    }

    /// Creates or replaces one object, with its status if it has one. Its namespace is made if it is missing.
    pub fn apply(&self, object: Value) {
        let mut store = lock(&self.shared.store);
        let what = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let resource = kinds::of(&store, &object).cloned().unwrap_or_else(|| panic!("{what}: the kind is not served"));
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if resource.namespaced && find(&store, "Namespace", &namespace).1.is_none() {
            let (spaces, _) = find(&store, "Namespace", "");
            let space = json!({"metadata": {"name": namespace}});
            write::create(&mut store, ask(&spaces, "", &namespace), space).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        }
        let version = object["apiVersion"].as_str().and_then(|text| text.rsplit('/').next()).unwrap_or_default().to_owned();
        let ask = Ask { version, ..ask(&resource, &namespace, &name) };
        let written = match store.get(&resource.key(&namespace, &name)).map(|stored| Arc::clone(&stored.object)) {
            None => write::create(&mut store, ask, object),
            Some(old) => {
                let mut new = object;
                new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"].clone();
                let status = resource.status.then(|| new.get("status").cloned()).flatten();
                write::replace(&mut store, &ask, new).and_then(|done| match status {
                    Some(status) => {
                        write::patch(&mut store, &Ask { status: true, ..ask }, write::PatchKind::Merge, json!({"status": status}))
                    }
                    None => Ok(done),
                })
            }
        };
        written.unwrap_or_else(|refusal| panic!("{what}: {}", refusal.message));
        self.shared.changed.send_replace(());
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, kind: &str, name: &str, patch: Value) {
        self.merge(kind, name, patch, false).unwrap_or_else(|refusal| panic!("{kind} {name}: {}", refusal.message));
    }

    /// Changes the status of an object by a merge patch of the object: `{"status": {..}}`.
    ///
    /// # Errors
    /// When the object is not there, which those who play another controller cannot know.
    pub fn patch_status(&self, kind: &str, name: &str, patch: Value) -> Result<(), Refusal> {
        self.merge(kind, name, patch, true)
    }

    fn merge(&self, kind: &str, name: &str, patch: Value, status: bool) -> Result<(), Refusal> {
        let mut store = lock(&self.shared.store);
        let (resource, _) = find(&store, kind, name);
        let (namespace, short) = name.split_once('/').unwrap_or(("", name));
        let ask = Ask { status: status && resource.status, ..ask(&resource, namespace, short) };
        let written = write::patch(&mut store, &ask, write::PatchKind::Merge, patch);
        self.shared.changed.send_replace(());
        written.map(|_| ())
    }

    /// Deletes an object, if it is there.
    pub fn delete(&self, kind: &str, name: &str) {
        let mut store = lock(&self.shared.store);
        let (resource, object) = find(&store, kind, name);
        if object.is_some() {
            let (namespace, short) = name.split_once('/').unwrap_or(("", name));
            delete::delete(&mut store, &ask(&resource, namespace, short), &Value::Null)
                .unwrap_or_else(|refusal| panic!("{kind} {name}: {}", refusal.message));
        }
        self.shared.changed.send_replace(());
    }

    /// An object by its kind and `namespace/name`, or `name` if it is in no namespace.
    pub fn get(&self, kind: &str, name: &str) -> Option<Value> {
        find(&lock(&self.shared.store), kind, name).1.map(|object| (*object).clone())
    }

    /// Whether a kind is served.
    pub fn serves(&self, kind: &str) -> bool {
        lock(&self.shared.store).served().iter().any(|one| one.kind == kind)
    }

    /// All objects of a kind, in the order of namespace and name.
    pub fn list(&self, kind: &str) -> Vec<Value> {
        let store = lock(&self.shared.store);
        let (resource, _) = find(&store, kind, "");
        store.list(&resource.group, &resource.plural, None).into_iter().map(|(_, object)| (*object).clone()).collect()
    }

    /// Waits until `look` finds something.
    ///
    /// # Panics
    /// When it has found nothing after `patience`, with `what` and the last calls.
    pub async fn wait_for<T>(&self, what: &str, patience: Duration, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + patience;
        let mut changed = self.shared.changed.subscribe();
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            if tokio::time::Instant::now() >= deadline {
                let calls = self.calls(&Select::any());
                let last: Vec<String> = calls.iter().rev().take(20).rev().map(ToString::to_string).collect();
                panic!("{what}: not within {patience:?}; the last of {} calls:\n{}", calls.len(), last.join("\n"));
            }
            // What is looked for may be no write.
            let _ = tokio::time::timeout(LOOK, changed.changed()).await;
        }
    }
}

/// The resource of a kind, and the object of it with this name.
fn find(store: &Store, kind: &str, name: &str) -> (Resource, Option<Arc<Value>>) {
    let resource = store.served().iter().find(|one| one.kind == kind);
    let resource = resource.cloned().unwrap_or_else(|| panic!("{kind}: the kind is not served"));
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let object = store.get(&resource.key(namespace, name)).map(|stored| Arc::clone(&stored.object));
    (resource, object)
}

/// What the test itself asks for.
fn ask(resource: &Resource, namespace: &str, name: &str) -> Ask {
    Ask {
        resource: resource.clone(),
        version: resource.version().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        status: false,
        manager: "test".to_owned(),
        force: true,
        dry_run: false,
        trusted: true,
    }
}

/// A test that failed elsewhere is no reason to fail here too.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
