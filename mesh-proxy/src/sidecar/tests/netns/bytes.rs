//! What is not HTTP goes through both sidecars as it is, with its ends, and what is not TCP goes past them.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use super::Faults;
use super::apps::GREETING;
use super::net::APPLICATION;
use super::town::{Name, Town, UNNAMED, Version};

const PATIENCE: Duration = Duration::from_secs(5);
/// More than any buffer on the way holds.
const MANY: usize = 1 << 20;

pub(super) fn run(town: &mut Town) -> Faults {
    let mut faults = Faults::new();
    for to in [
        Name::Cart.service(Version::V4, GREETING),
        Name::Cart.service(Version::V6, UNNAMED),
        Name::Cart.at(Version::V6, GREETING),
        Name::Plain.at(Version::V4, GREETING),
    ] {
        let by = if to == Name::Plain.at(Version::V4, GREETING) { Name::Plain } else { Name::Cart };
        match there_and_back(town, to) {
            Ok(bytes) if bytes.len() == by.as_str().len() + MANY && bytes.starts_with(by.as_str().as_bytes()) => {}
            Ok(bytes) => faults.push(format!("half closed, {to}: {} bytes of {MANY} came back", bytes.len())),
            Err(error) => faults.push(format!("half closed, {to}: {error}")),
        }
    }
    for version in Version::BOTH {
        match datagram(town, version) {
            Ok(from) if from == Name::Web.ip(version) => {}
            other => faults.push(format!("a datagram, {version:?}: {other:?}")),
        }
    }
    faults
}

/// Says much and that this is all, and only then is the other side through: what it has said until its own end.
fn there_and_back(town: &Town, to: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = town.net(Name::Web).connect(APPLICATION, to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut writer = stream.try_clone()?;
    thread::scope(|scope| {
        let said = scope.spawn(move || {
            writer.write_all(&vec![7; MANY])?;
            writer.shutdown(Shutdown::Write)
        });
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        said.join().unwrap()?;
        Ok(heard)
    })
}

/// From whom a datagram of `web` comes.
fn datagram(town: &Town, version: Version) -> io::Result<std::net::IpAddr> {
    let server = town.net(Name::Cart).within(APPLICATION, || UdpSocket::bind(Name::Cart.at(version, 5353)))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let client = town.net(Name::Web).within(APPLICATION, || UdpSocket::bind(Name::Web.at(version, 0)))?;
    client.send_to(b"x", server.local_addr()?)?;
    let (_, from) = server.recv_from(&mut [0; 1])?;
    Ok(from.ip())
}
