//! How long a route takes from the API server to the proxies: `cargo xtask bench propagation`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use kube::api::{DynamicObject, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, ResourceExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::fault::{Fault, Outcome, ensure};
use crate::line::{Http, Line};
use crate::manifests::{route, served};
use crate::space::{SLOW, Space};
use crate::stage::{Stage, eventually};
use crate::status;

const ROUTES: usize = 200;
/// Between two requests of one client: the proxies and the controller share two processors with it.
const PAUSE: Duration = Duration::from_micros(500);
/// Between two routes.
const REST: Duration = Duration::from_millis(50);

/// Times from the create call's return, in milliseconds; one for each route.
#[derive(Default)]
struct Times {
    told: Vec<f64>,
    kept: Vec<f64>,
    new: Vec<f64>,
    programmed: Vec<f64>,
    faults: Vec<String>,
}

pub(crate) async fn bench(stage: Arc<Stage>) -> Outcome {
    let space = stage.space(serde_json::json!({})).await?;
    let address = served(&space, 2, "").await?;
    space.delete("HTTPRoute", "shop").await?;
    eventually(SLOW, "the first route goes", || async {
        for _ in 0..8 {
            ensure!(crate::line::get(address, "/").await?.status == 404, "it is still served");
        }
        Ok(())
    })
    .await?;
    let mut seen = Seen::start(&space);
    let mut times = Times::default();
    for number in 0..ROUTES {
        one(&space, address, number, &mut seen, &mut times).await?;
        tokio::time::sleep(REST).await;
    }
    report(&stage, &times);
    ensure!(times.faults.is_empty(), "answers that are neither 404 before nor 200 after: {}", times.faults.join("; "));
    Ok(())
}

async fn one(space: &Space, address: std::net::SocketAddr, number: usize, seen: &mut Seen, times: &mut Times) -> Outcome {
    let (name, path) = (format!("r{number}"), format!("/r{number}"));
    let object: DynamicObject = serde_saphyr::from_str(&route(&name, &path, "echo", ""))?;
    let pollers = [true, false].map(|keep| tokio::spawn(poll(Line::new(address, Http::One), keep, path.clone())));
    // So that both have had an answer.
    tokio::time::sleep(Duration::from_millis(10)).await;
    space.api("HTTPRoute").create(&PostParams::default(), &object).await?;
    let accepted = Instant::now();
    let since = |instant: Instant| instant.saturating_duration_since(accepted).as_secs_f64() * 1000.0;
    for (poller, into) in pollers.into_iter().zip([&mut times.kept, &mut times.new]) {
        let Polled { served, before, faults } = poller.await??;
        ensure!(before > 0, "route {number} was served before anybody asked");
        into.push(since(served));
        times.faults.extend(faults);
    }
    let (told, programmed) = seen.of(&name).await?;
    times.told.push(since(told));
    times.programmed.push(since(programmed));
    Ok(())
}

/// What a client saw.
struct Polled {
    served: Instant,
    /// Answers before that.
    before: usize,
    faults: Vec<String>,
}

/// Asks until the answer is 200.
async fn poll(mut line: Line, keep: bool, path: String) -> Outcome<Polled> {
    let (start, mut before, mut faults) = (Instant::now(), 0, Vec::new());
    loop {
        if !keep {
            line.close();
        }
        match line.get(&path).await {
            Ok(answer) if answer.status == 200 => return Ok(Polled { served: Instant::now(), before, faults }),
            Ok(answer) if answer.status == 404 => before += 1,
            Ok(answer) => faults.push(format!("{path}: {}", answer.status)),
            Err(fault) => faults.push(format!("{path}: {fault}")),
        }
        ensure!(start.elapsed() < SLOW, "{path} is never served; {}", faults.join("; "));
        tokio::time::sleep(PAUSE).await;
    }
}

/// Tells when a watch told of a route, and when its status says that it is served.
struct Seen {
    events: mpsc::UnboundedReceiver<(DynamicObject, Instant)>,
    task: JoinHandle<()>,
}

impl Seen {
    fn start(space: &Space) -> Self {
        let (sender, events) = mpsc::unbounded_channel();
        let api: Api<DynamicObject> = space.api("HTTPRoute");
        let task = tokio::spawn(async move {
            let mut routes = std::pin::pin!(watcher(api, watcher::Config::default()).applied_objects());
            while let Some(event) = routes.next().await {
                let Ok(route) = event else { continue };
                if sender.send((route, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Self { events, task }
    }

    /// The first event of a route, and the first in which it is served.
    async fn of(&mut self, name: &str) -> Outcome<(Instant, Instant)> {
        let found = async {
            let mut told = None;
            while let Some((route, instant)) = self.events.recv().await {
                if route.name_any() == name {
                    let told = *told.get_or_insert(instant);
                    if status::is_served(&route) {
                        return Ok((told, instant));
                    }
                }
            }
            Err(Fault::said("the watch ended"))
        };
        tokio::time::timeout(SLOW, found).await.map_err(|_| Fault::said(format!("{name} is never Programmed")))?
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A table as docs/performance.md has it.
fn report(stage: &Stage, times: &Times) {
    stage.say("| ms after the create call returned | median | p90 | p99 | max |");
    stage.say("|---|---|---|---|---|");
    let rows = [
        ("a watch of the API server tells of it", &times.told),
        ("first 200 on a kept connection", &times.kept),
        ("first 200 on a new connection", &times.new),
        ("isthmus.dev/Programmed is True", &times.programmed),
    ];
    for (what, times) in rows {
        let mut sorted = times.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
        let [median, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(at);
        stage.say(format!("| {what} | {median:.1} | {p90:.1} | {p99:.1} | {max:.1} |"));
    }
    stage.say(format!("{} routes, {} answers besides 404 before and 200 after", times.kept.len(), times.faults.len()));
}
