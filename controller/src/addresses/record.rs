//! Pool addresses, written to Services' statuses.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use isthmus_api::{NamespacedName, Service};
use isthmus_push::server::Role;
use isthmus_routing::GatewayKey;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{Record, ingress_ips};
use crate::provision::FIELD_MANAGER;
use crate::watch::stream::in_time;

/// Services that are written at the same time.
const CONCURRENT: usize = 8;
/// The first and the longest wait after a failure.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// Writes what Services' statuses should say, while this replica leads. Ends when it is dropped.
#[derive(Debug)]
pub struct Recorder {
    records: watch::Sender<Arc<Vec<Record>>>,
    faults: watch::Receiver<Arc<BTreeMap<GatewayKey, String>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Starts its task.
    pub fn start(client: Client, role: watch::Receiver<Role>) -> Self {
        let (records, wanted) = watch::channel(Arc::default());
        let (sender, faults) = watch::channel(Arc::default());
        let task = tokio::spawn(run(client, role, wanted, sender));
        Self { records, faults, task }
    }

    /// From now on only these are to be written. Returns at once.
    pub fn record(&self, records: Vec<Record>) {
        self.records.send_if_modified(|current| {
            let differs = **current != records;
            if differs {
                *current = Arc::new(records);
            }
            differs
        });
    }

    /// Gateways whose addresses could not be written, and why.
    pub fn faults(&self) -> watch::Receiver<Arc<BTreeMap<GatewayKey, String>>> {
        self.faults.clone()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(
    client: Client,
    mut role: watch::Receiver<Role>,
    mut wanted: watch::Receiver<Arc<Vec<Record>>>,
    faults: watch::Sender<Arc<BTreeMap<GatewayKey, String>>>,
) {
    let mut written: BTreeMap<NamespacedName, Record> = BTreeMap::new();
    let mut failures: u32 = 0;
    let mut retry = None;
    loop {
        let alive = tokio::select! {
            changed = wanted.changed() => changed.is_ok(),
            changed = role.changed() => changed.is_ok(),
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => true,
        };
        if !alive {
            return;
        }
        retry = None;
        let leads = *role.borrow_and_update() == Role::Leader;
        let records = Arc::clone(&wanted.borrow_and_update());
        written.retain(|name, done| records.iter().any(|record| record.service == *name && record == done));
        if !leads {
            continue;
        }
        let mut due: Vec<Record> = records.to_vec();
        due.retain(|record| written.get(&record.service) != Some(record));
        let writes = due.into_iter().map(|record| write(client.clone(), record));
        let writes = stream::iter(writes).buffer_unordered(CONCURRENT).collect::<Vec<_>>();
        let results = tokio::select! {
            results = writes => results,
            // What is under way is dropped: another replica writes from now on.
            ended = role.wait_for(|role| *role != Role::Leader) => match ended {
                Ok(_) => continue,
                Err(_) => return,
            },
        };
        let mut told = BTreeMap::new();
        for (record, result) in results {
            match result {
                Ok(()) => {
                    written.insert(record.service.clone(), record);
                }
                Err(error) => {
                    warn!("the address of Service {} cannot be written: {error}", record.service);
                    told.insert(record.gateway, format!("the address cannot be written to Service {}: {error}", record.service));
                }
            }
        }
        failures = if told.is_empty() { 0 } else { failures.saturating_add(1) };
        if failures > 0 {
            retry = Some(Instant::now() + (BACKOFF.0 * 2_u32.saturating_pow(failures.min(16) - 1)).min(BACKOFF.1));
        }
        faults.send_if_modified(|current| {
            let differs = **current != told;
            if differs {
                *current = Arc::new(told);
            }
            differs
        });
    }
}

/// Writes one; if the Service was changed meanwhile, its new version, as long as its addresses are still those that were judged.
async fn write(client: Client, record: Record) -> (Record, Result<(), kube::Error>) {
    let services: Api<Service> = Api::namespaced(client, &record.service.namespace);
    let mut version = record.resource_version.clone();
    loop {
        let error = match patch(&services, &record, &version).await {
            Ok(()) => return (record, Ok(())),
            Err(error) => error,
        };
        let conflict = matches!(&error, kube::Error::Api(status) if status.code == 409);
        let gone = matches!(&error, kube::Error::Api(status) if status.code == 404);
        if gone {
            return (record, Ok(()));
        }
        if !conflict {
            return (record, Err(error));
        }
        let current = match in_time(services.get_opt(&record.service.name)).await {
            Ok(current) => current,
            Err(error) => return (record, Err(error)),
        };
        let same =
            |service: &Service| service.metadata.uid.as_deref() == Some(&record.uid) && ingress_ips(service) == record.seen;
        match current.filter(same).and_then(|service| service.metadata.resource_version) {
            Some(newer) if newer != version => version = newer,
            // Judged anew when the watch brings it.
            _ => return (record, Ok(())),
        }
    }
}

async fn patch(services: &Api<Service>, record: &Record, version: &str) -> Result<(), kube::Error> {
    let ingress = |ip: &IpAddr| json!({ "ip": ip.to_string(), "ipMode": "VIP" });
    let body = json!({
        "metadata": { "uid": record.uid, "resourceVersion": version },
        "status": { "loadBalancer": { "ingress": record.addresses.iter().map(ingress).collect::<Vec<_>>() } },
    });
    let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() };
    in_time(services.patch_status(&record.service.name, &parameters, &Patch::Merge(&body))).await?;
    info!("Service {} has the addresses {:?}", record.service, record.addresses);
    Ok(())
}
