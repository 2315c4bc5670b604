//! The node, where it is this machine.

use std::fs;
use std::process::Command;

use crate::fault::{Outcome, ensure};
use crate::manifests::PODS;
use crate::space::{SLOW, Space};
use crate::stage::eventually;

/// As `/proc` has it.
const PROGRAM: &str = "isthmus-gateway";

/// Kills the proxies of Gateway `edge` as a crash would, and waits until the kubelet has noticed. False if they run elsewhere.
pub(crate) async fn kill_gateways(space: &Space) -> Outcome<bool> {
    let pods = space.list("Pod", PODS).await?;
    for pod in &pods {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let Some(process) = process_of(&uid) else { return Ok(false) };
        let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status()?;
        ensure!(killed.success(), "process {process} cannot be killed");
    }
    for pod in &pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let before = restarts(pod);
        eventually(SLOW, "the container is restarted", || async {
            let now = restarts(&space.get("Pod", &name).await?);
            ensure!(now > before, "{name} was restarted {now} times");
            Ok(())
        })
        .await?;
    }
    Ok(true)
}

/// The proxy's process in a pod: its cgroup names the pod.
fn process_of(uid: &str) -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.into_iter().find(|id| {
        let read = |file: &str| fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
        read("comm").trim() == PROGRAM && read("cgroup").contains(uid)
    })
}

fn restarts(pod: &kube::api::DynamicObject) -> u64 {
    pod.data["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or_default()
}
