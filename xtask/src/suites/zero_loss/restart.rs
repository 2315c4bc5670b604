//! Two instances behind a client that balances by `/readyz`; one after the other restarts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::fault::Fault;
use crate::suites::certificate::Authority;
use crate::suites::instance::{self, Instance};
use crate::suites::stage::Stage;
use crate::suites::zero_loss::edit::PORTS;
use crate::suites::zero_loss::traffic::{Destination, Traffic};

/// How often a balancer looks.
const POLL: Duration = Duration::from_millis(50);

/// It sees `/readyz` say no long before the instance stops accepting: as in a cluster, only shorter.
const FLAGS: [&str; 2] = ["--lame-duck", "1"];

pub(super) fn run(
    stage: &Stage,
    authority: &Authority,
    restarts: usize,
    notes: &mut Vec<String>,
) -> Result<Result<(), String>, Fault> {
    let mut instances = vec![Instance::start(stage, &PORTS, &FLAGS)?, Instance::start(stage, &PORTS, &FLAGS)?];
    let destinations: Vec<Destination> = instances.iter().map(Destination::from).collect();
    let polling = Polling::start(&instances, &destinations);
    let traffic = Traffic::start(&destinations, &authority.client()?);
    let mut restarted = Ok(());
    for _ in 0..restarts {
        restarted = restart(stage, &mut instances);
        if restarted.is_err() {
            break;
        }
        // Both serve for a while, so that the next one is not stopped before this one has traffic.
        thread::sleep(4 * POLL);
    }
    let count = traffic.finish();
    polling.stop();
    notes.push(format!("{restarts} restarts: {count}"));
    restarted?;
    Ok(count.verdict())
}

/// Stops the one that runs longest and starts it again in its place.
fn restart(stage: &Stage, instances: &mut Vec<Instance>) -> Result<(), Fault> {
    let oldest = instances.remove(0);
    let (offset, admin) = (oldest.offset(), oldest.admin());
    oldest.terminate()?;
    instances.push(Instance::start_at(stage, offset, admin, &FLAGS)?);
    Ok(())
}

/// Says of each destination whether it is ready.
struct Polling {
    stop: Arc<AtomicBool>,
}

impl Polling {
    fn start(instances: &[Instance], destinations: &[Destination]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        for (instance, destination) in instances.iter().zip(destinations) {
            let (admin, ready, stop) = (instance.admin(), Arc::clone(&destination.ready), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    ready.store(instance::is_ready(admin), Ordering::Relaxed);
                    thread::sleep(POLL);
                }
            });
        }
        Self { stop }
    }

    fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
