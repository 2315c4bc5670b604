//! The PyPI package `websockets` on both ends (`tests/suites/websocket/peer.py`), the gateway between them.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::fault::Fault;
use crate::process::{self, Running};
use crate::suites::certificate::Authority;
use crate::suites::instance::Instance;
use crate::suites::stage::{Stage, endpoint_slices};
use crate::suites::{Outcome, tools};
use crate::workspace;

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let python = tools::python("websocket")?;
    let script = workspace::root().join("tests/suites/websocket/peer.py");
    let authority = Authority::new()?;
    let roots = stage.file("authority.pem");
    stage.keep(&roots, authority.pem().as_bytes())?;
    stage.write("certificate.yaml", &authority.issue("edge", &["chat.example"])?.secret)?;

    let log = stage.file("server.log");
    let mut server = Running::start("the WebSocket server", Command::new(&python).arg(&script).arg("serve"), &log)?;
    // Its first line is its port.
    let port = || fs::read_to_string(&log).ok()?.split_once('\n')?.0.parse::<u16>().ok();
    server.wait_until(Duration::from_secs(20), || port().is_some())?;
    let port = port().ok_or_else(|| Fault::said("the WebSocket server did not say its port"))?;
    stage.write("endpoints.yaml", &endpoint_slices("chat", &[([127, 0, 0, 1], port).into()]))?;
    let gateway = Instance::start(stage, &[80, 443], &[])?;

    let mut outcome = Outcome::default();
    for (uri, port, authority) in [("ws://chat.example/ws", 80, None), ("wss://chat.example/ws", 443, Some(&roots))] {
        let mut command = Command::new("timeout");
        command.args(["180"]).arg(&python).arg(&script).args(["drive", uri]).args(authority);
        let said = process::capture(command.env("ADDRESS", gateway.at(port).to_string()))?;
        for line in said.lines() {
            match line.strip_prefix("ok ") {
                Some(_) => outcome.passed += 1,
                None => outcome.failed.push(format!("{uri} {line}")),
            }
        }
    }
    outcome.notes.push("plain and TLS".to_owned());
    Ok(outcome)
}
