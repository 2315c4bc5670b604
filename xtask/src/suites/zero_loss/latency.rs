//! How long an edit takes: from the renamed file to the first response that shows it.

use std::thread;
use std::time::{Duration, Instant};

use crate::suites::client::Client;
use crate::suites::instance::Instance;
use crate::suites::zero_loss::edit::Editor;
use crate::suites::zero_loss::traffic::HOST;

const EDITS: usize = 50;
const LIMIT: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(5);

/// The median may not reach the limit.
pub(super) fn run(editor: &mut Editor<'_>, gateway: &Instance, notes: &mut Vec<String>) -> Result<(), String> {
    let mut client = Client::plain(gateway.at(80));
    let mut times = Vec::new();
    for number in 1..=EDITS {
        // No two edits are closer than a person's, so none rides on the one before.
        thread::sleep(Duration::from_millis(100));
        editor.mark(1_000_000 + number).map_err(|fault| fault.to_string())?;
        times.push(shown(&mut client, &(1_000_000 + number).to_string())?);
    }
    times.sort();
    let (median, slowest) = (times[EDITS / 2], times[EDITS - 1]);
    notes.push(format!("{EDITS} edits live after {:.1} ms (median), {:.1} ms (slowest)", millis(median), millis(slowest)));
    if median < LIMIT { Ok(()) } else { Err(format!("the median of {EDITS} edits is {:.1} ms", millis(median))) }
}

fn shown(client: &mut Client, mark: &str) -> Result<Duration, String> {
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        let answer = client.get(HOST, "/").map_err(|fault| format!("the polling request: {fault}"))?;
        if answer.header("x-edit") == mark {
            return Ok(start.elapsed());
        }
    }
    Err(format!("an edit was not live after {} s", PATIENCE.as_secs()))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
