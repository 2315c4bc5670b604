//! A strict client that never retries loses nothing: not while the folder is edited or certificates are swapped, not while one of two
//! instances restarts.

mod edit;
mod latency;
mod restart;
mod rotation;
mod traffic;

use crate::fault::Fault;
use crate::suites::Outcome;
use crate::suites::backend::Backend;
use crate::suites::certificate::Authority;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::zero_loss::edit::{Editor, PORTS};
use crate::suites::zero_loss::traffic::Traffic;

const REQUESTS: usize = 20_000;
const EDITS: usize = 100;
const RESTARTS: usize = 5;

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let authority = Authority::new()?;
    let backends = [Backend::start("first")?.address, Backend::start("second")?.address];
    let (mut outcome, mut notes) = (Outcome::default(), Vec::new());

    let mut editor = Editor::new(stage, &authority, backends)?;
    let gateway = Instance::start(stage, &PORTS, &[])?;
    outcome.count("edits are live in under 50 ms", latency::run(&mut editor, &gateway, &mut notes));
    outcome.count("no request is lost to edits", edits(&mut editor, &gateway, &authority, &mut notes)?);
    outcome.count("no request is lost to new certificates", rotation::run(stage, &gateway, &authority, &mut notes)?);
    outcome.count("SIGTERM ends it", ended(gateway));
    outcome.count("no request is lost to restarts", restart::run(stage, &authority, RESTARTS, &mut notes)?);
    outcome.notes = notes;
    Ok(outcome)
}

/// The traffic goes on until both are done: all requests are sent, all edits are live.
fn edits(
    editor: &mut Editor<'_>,
    gateway: &Instance,
    authority: &Authority,
    notes: &mut Vec<String>,
) -> Result<Result<(), String>, Fault> {
    let traffic = Traffic::start(&[gateway.into()], &authority.client()?);
    let mut edited = Ok(());
    for number in 1..=EDITS {
        // Spread over the traffic, so that no part of either runs alone.
        traffic.wait_for(number * REQUESTS / (EDITS + 1));
        edited = editor.edit(number, gateway);
        if edited.is_err() {
            break;
        }
    }
    traffic.wait_for(REQUESTS);
    let count = traffic.finish();
    notes.push(format!("{EDITS} edits: {count}"));
    Ok(edited.and_then(|()| count.verdict()).map_err(|why| format!("{why}{}", gateway.said())))
}

fn ended(gateway: Instance) -> Result<(), String> {
    let status = gateway.terminate().map_err(|fault| fault.to_string())?;
    if status.success() { Ok(()) } else { Err(format!("it ended with {status}")) }
}
