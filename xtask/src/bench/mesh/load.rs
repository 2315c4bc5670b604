//! A client that asks at fixed times, whatever the answers do.
//!
//! Each connection has its own times, a rate's share each, set off against each other. A request whose time has come while the one before
//! it is unanswered counts from when it was due, so a stall is in as many figures as requests it held up. One that could be sent in time
//! counts from when it was: how late the system wakes a client is nobody's latency.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl;

use super::pods::Pods;

/// Requests for each second, on all connections.
pub(super) const RATE: u32 = 1000;
/// As many as in the published measurements of sidecars.
pub(super) const CONNECTIONS: u32 = 8;
/// Of each connection, before anything is counted.
const WARM: u32 = 25;
/// How early a client is awake, in nanoseconds: the system's own 50,000 would be half of a direct call.
const SLACK: u64 = 1;
/// More than an answer takes here.
const LONGEST: usize = 16 * 1024;

/// Open connections, each of which has carried requests.
#[derive(Debug)]
pub(super) struct Load {
    streams: Vec<TcpStream>,
    request: String,
}

impl Load {
    /// Connects, and asks as fast as it goes until everything is warm.
    pub(super) fn open(pods: &Pods, to: SocketAddr, host: &str, path: &str) -> io::Result<Self> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: isthmus-bench\r\n\r\n");
        let mut streams = (0..CONNECTIONS).map(|_| pods.connect(to)).collect::<io::Result<Vec<_>>>()?;
        for _ in 0..WARM {
            for stream in &mut streams {
                ask(stream, &request)?;
            }
        }
        Ok(Self { streams, request })
    }

    /// What each request took, sorted, in seconds; as many as [`RATE`] says. Anything but a 200 is an error.
    pub(super) fn run(&mut self, time: Duration) -> io::Result<Vec<f64>> {
        let gap = Duration::from_secs(1) / RATE;
        // Everybody is there before the first request is due.
        let start = Instant::now() + Duration::from_millis(20);
        let each = (time.as_secs_f64() * f64::from(RATE) / f64::from(CONNECTIONS)).round() as u32;
        let request = &self.request;
        let mut all = thread::scope(|scope| {
            let clients: Vec<_> = (0..CONNECTIONS)
                .zip(&mut self.streams)
                .map(|(number, stream)| scope.spawn(move || one(stream, request, start + gap * number, gap * CONNECTIONS, each)))
                .collect();
            let took =
                clients.into_iter().map(|client| client.join().unwrap_or_else(|_| Err(io::Error::other("a client broke"))));
            took.collect::<io::Result<Vec<_>>>().map(|took| took.concat())
        })?;
        all.sort_by(f64::total_cmp);
        Ok(all)
    }
}

/// One connection's requests.
fn one(stream: &mut TcpStream, request: &str, first: Instant, gap: Duration, count: u32) -> io::Result<Vec<f64>> {
    prctl::set_timerslack(SLACK)?;
    let mut took = Vec::with_capacity(count as usize);
    for number in 0..count {
        let due = first + gap * number;
        let wait = due.saturating_duration_since(Instant::now());
        thread::sleep(wait);
        let start = if wait.is_zero() { due } else { Instant::now() };
        ask(stream, request)?;
        took.push(start.elapsed().as_secs_f64());
    }
    Ok(took)
}

/// One exchange.
pub(in crate::bench) fn ask(stream: &mut TcpStream, request: &str) -> io::Result<()> {
    stream.write_all(request.as_bytes())?;
    let (mut buffer, mut held) = ([0; LONGEST], 0);
    loop {
        match stream.read(&mut buffer[held..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the answer was whole")),
            read => held += read,
        }
        if is_whole(&buffer[..held])? {
            return Ok(());
        }
    }
}

/// Whether this is a whole answer; an error if it is another one than 200, or cannot become one that ends by itself.
fn is_whole(bytes: &[u8]) -> io::Result<bool> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(false) };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let fault = || io::Error::other(format!("not an answer that was expected: {head}"));
    let mut lines = head.split("\r\n");
    if lines.next().and_then(|line| line.split(' ').nth(1)) != Some("200") {
        return Err(fault());
    }
    let length = lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.and_then(|(_, value)| value.trim().parse().ok()).ok_or_else(fault)?;
    match bytes.len().checked_sub(end + 4 + length) {
        Some(0) => Ok(true),
        Some(_) => Err(fault()),
        None => Ok(false),
    }
}

/// The value that this share of them does not exceed.
pub(super) fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = (sorted.len() as f64 * share).ceil() as usize;
    sorted.get(place.max(1) - 1).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_when_its_body_is() {
        let text = "HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 3\r\n\r\nabc";
        for end in 0..text.len() {
            assert!(!is_whole(&text.as_bytes()[..end]).unwrap(), "{end}");
        }
        assert!(is_whole(text.as_bytes()).unwrap());
        for bad in [&text.replace("200", "503"), &text.replace("Content-Length: 3", "x: y"), &format!("{text}d")] {
            assert!(is_whole(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn quantiles_are_values() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [1.0, 50.0, 99.0, 100.0]);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_stall_is_in_every_request_that_it_held_up() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for number in 0..10 {
                let mut request = [0; 1];
                stream.read_exact(&mut request).unwrap();
                thread::sleep(Duration::from_millis(if number == 0 { 200 } else { 0 }));
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        });
        let took = one(&mut stream, "x", Instant::now(), Duration::from_millis(20), 10).unwrap();
        server.join().unwrap();
        // Due after 0, 20, 40, ... ms, and answered after 200 at the earliest.
        assert!(took[0] >= 0.2 && took[4] >= 0.11 && took[8] >= 0.03, "{took:?}");
    }
}
