//! nghttp2's load generator: many requests over few connections, none of them lost.

use std::process::Command;

use crate::fault::Fault;
use crate::process;
use crate::suites::certificate::Authority;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::{Outcome, tools};

const REQUESTS: usize = 3000;

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let program = tools::h2load()?;
    stage.write("certificate.yaml", &Authority::new()?.issue("edge", &["edge.example"])?.secret)?;
    let gateway = Instance::start(stage, &[80, 443], &["--echo"])?;
    let (plain, secure) = (format!("http://{}/", gateway.at(80)), format!("https://{}/", gateway.at(443)));
    let mut outcome = Outcome::default();
    for (name, url, flags) in [
        ("h2c", &plain, &["-m", "10"][..]),
        ("h2", &secure, &["-m", "10"]),
        ("h1", &plain, &["--h1"]),
        ("h1 tls", &secure, &["--h1"]),
    ] {
        let mut command = Command::new(&program);
        command.args(["-n", &REQUESTS.to_string(), "-c", "10"]).args(flags).arg(url);
        let said = process::capture(&mut command)?;
        let wanted = [format!("{REQUESTS} succeeded, 0 failed, 0 errored, 0 timeout"), format!("status codes: {REQUESTS} 2xx")];
        let all = wanted.iter().all(|words| said.contains(words));
        outcome.count(name, if all { Ok(()) } else { Err(said) });
    }
    outcome.notes.push(format!("{REQUESTS} requests each"));
    Ok(outcome)
}
