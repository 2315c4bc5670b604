//! What an idle keep-alive connection costs in memory.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustls::ClientConfig;

use super::contender::Contender;
use super::procfs;
use super::scene::{HOST, PATH};
use crate::fault::Fault;
use crate::suites::client::Client;

const CONNECTIONS: usize = 1000;
const SETTLE: Duration = Duration::from_millis(300);

/// Of a gateway that was just started: a thousand connections, each idle after one request, plain or with TLS.
pub(super) fn bytes_for_each(contender: &Contender, tls: Option<&Arc<ClientConfig>>) -> Result<f64, Fault> {
    let open = || {
        let mut client = match tls {
            Some(config) => Client::tls(contender.tls(), config.clone()),
            None => Client::plain(contender.plain()),
        };
        match client.get(HOST, PATH) {
            Ok(answer) if answer.status == 200 => Ok(client),
            Ok(answer) => Err(Fault::said(format!("{} answered {}", contender.kind().as_str(), answer.status))),
            Err(error) => Err(Fault::said(format!("{}: {error}", contender.kind().as_str()))),
        }
    };
    // What the first connections make once belongs to no connection.
    let first = (0..10).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
    thread::sleep(SETTLE);
    let before = procfs::rss(contender.id())?;
    let all = (0..CONNECTIONS).map(|_| open()).collect::<Result<Vec<_>, _>>()?;
    thread::sleep(SETTLE);
    let after = procfs::rss(contender.id())?;
    if procfs::open_files(contender.id())? < CONNECTIONS {
        return Err(Fault::said(format!("{} closed idle connections, so they cannot be measured", contender.kind().as_str())));
    }
    drop((first, all));
    Ok(after.saturating_sub(before) as f64 / CONNECTIONS as f64)
}
