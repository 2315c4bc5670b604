//! Steady traffic of strict clients over HTTP and HTTPS, on kept and on new connections, to those instances that are ready.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustls::ClientConfig;

use crate::suites::client::Client;
use crate::suites::instance::Instance;

/// The host of the route that is edited under the traffic.
pub(super) const HOST: &str = "shop.example";

/// A gateway as the traffic sees it.
#[derive(Debug, Clone)]
pub(super) struct Destination {
    plain: SocketAddr,
    secure: SocketAddr,
    /// Whether new requests may go there; whoever polls `/readyz` says so.
    pub(super) ready: Arc<AtomicBool>,
}

impl From<&Instance> for Destination {
    fn from(instance: &Instance) -> Self {
        Self { plain: instance.at(80), secure: instance.at(443), ready: Arc::new(AtomicBool::new(true)) }
    }
}

/// What was sent and what was lost.
#[derive(Debug, Default)]
pub(super) struct Count {
    sent: AtomicUsize,
    encrypted: AtomicUsize,
    connections: AtomicUsize,
    lost: AtomicUsize,
    /// The first few, in words.
    examples: Mutex<Vec<String>>,
}

impl Count {
    /// Nothing may be lost, and something must have been sent.
    pub(super) fn verdict(&self) -> Result<(), String> {
        if self.lost.load(Ordering::Relaxed) == 0 && self.sent.load(Ordering::Relaxed) > 0 {
            return Ok(());
        }
        Err(format!("{self}\n    {}", self.examples.lock().unwrap_or_else(PoisonError::into_inner).join("\n    ")))
    }

    fn lose(&self, why: String) {
        self.lost.fetch_add(1, Ordering::Relaxed);
        let mut examples = self.examples.lock().unwrap_or_else(PoisonError::into_inner);
        if examples.len() < 10 {
            examples.push(why);
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let read = |number: &AtomicUsize| number.load(Ordering::Relaxed);
        let (sent, encrypted, connections) = (read(&self.sent), read(&self.encrypted), read(&self.connections));
        write!(f, "{sent} requests ({encrypted} over TLS, {connections} on connections of their own), {} lost", read(&self.lost))
    }
}

/// Running traffic. Without [`Traffic::finish`] it would run as long as this tool.
#[derive(Debug)]
pub(super) struct Traffic {
    count: Arc<Count>,
    stop: Arc<AtomicBool>,
    workers: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Two workers that keep their connections and two that open one for each request; one of each over TLS.
    pub(super) fn start(destinations: &[Destination], tls: &Arc<ClientConfig>) -> Self {
        let (count, stop) = (Arc::new(Count::default()), Arc::new(AtomicBool::new(false)));
        let kinds = [(false, true), (false, false), (true, true), (true, false)];
        let workers = kinds.map(|(encrypted, keep)| {
            let (count, stop, tls) = (Arc::clone(&count), Arc::clone(&stop), Arc::clone(tls));
            let mut lines: Vec<Line> = destinations.iter().map(|to| Line::new(to, encrypted.then_some(&tls))).collect();
            thread::spawn(move || {
                let mut turn = 0;
                while !stop.load(Ordering::Relaxed) {
                    turn += 1;
                    exchange(&mut lines, turn, keep, encrypted, &count);
                }
            })
        });
        Self { count, stop, workers: workers.into() }
    }

    /// Returns when this many requests were sent.
    pub(super) fn wait_for(&self, requests: usize) {
        while self.count.sent.load(Ordering::Relaxed) < requests {
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Returns when this many more requests were sent.
    pub(super) fn wait_for_more(&self, requests: usize) {
        self.wait_for(self.count.sent.load(Ordering::Relaxed) + requests);
    }

    /// Lets the requests in flight end.
    pub(super) fn finish(self) -> Arc<Count> {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if worker.join().is_err() {
                self.count.lose("a client panicked".to_owned());
            }
        }
        self.count
    }
}

/// One worker's way to one destination.
struct Line {
    client: Client,
    ready: Arc<AtomicBool>,
}

impl Line {
    fn new(to: &Destination, tls: Option<&Arc<ClientConfig>>) -> Self {
        let client = match tls {
            Some(tls) => Client::tls(to.secure, Arc::clone(tls)),
            None => Client::plain(to.plain),
        };
        Self { client, ready: Arc::clone(&to.ready) }
    }
}

/// One request to the next destination that is ready. A connection to one that is not is given up before it is used again.
fn exchange(lines: &mut [Line], turn: usize, keep: bool, encrypted: bool, count: &Count) {
    for line in lines.iter_mut() {
        if !keep || !line.ready.load(Ordering::Relaxed) {
            line.client.close();
        }
    }
    let number = lines.len();
    let Some(line) = (0..number).map(|step| (turn + step) % number).find(|index| lines[*index].ready.load(Ordering::Relaxed))
    else {
        // Nowhere to send it: that is a lost request, and no reason to spin.
        count.sent.fetch_add(1, Ordering::Relaxed);
        count.lose("no instance was ready".to_owned());
        thread::sleep(Duration::from_millis(10));
        return;
    };
    let answer = lines[line].client.get(HOST, "/");
    count.sent.fetch_add(1, Ordering::Relaxed);
    count.encrypted.fetch_add(usize::from(encrypted), Ordering::Relaxed);
    count.connections.fetch_add(usize::from(!keep), Ordering::Relaxed);
    let kind = format!("{} on a {} connection", if encrypted { "https" } else { "http" }, if keep { "kept" } else { "new" });
    match answer {
        Ok(answer) if answer.status == 200 => {}
        Ok(answer) => count.lose(format!("{kind}: status {} {}", answer.status, String::from_utf8_lossy(&answer.body))),
        Err(fault) => {
            count.lose(format!("{kind}: {fault}"));
            lines[line].client.close();
        }
    }
}
