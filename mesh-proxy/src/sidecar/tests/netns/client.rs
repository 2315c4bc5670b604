//! Calls of the pods, and what came of them.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::apps::Seen;
use super::net::Net;

const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a request.
#[derive(Debug, Clone)]
pub(super) struct Outcome {
    pub(super) came: Came,
    pub(super) took: Duration,
}

#[derive(Debug, Clone)]
pub(super) enum Came {
    /// This application's answer.
    Answer(Seen),
    /// A response that is no application's of ours.
    Code(u16, String),
    /// The connection was not made, or it ended without a word.
    Nothing(String),
    /// No end to it.
    Waiting,
}

impl Outcome {
    /// The name of the pod that has answered; none: none has.
    pub(super) fn pod(&self) -> Option<&str> {
        self.answer().map(|seen| seen.pod.as_str())
    }

    pub(super) fn answer(&self) -> Option<&Seen> {
        if let Came::Answer(seen) = &self.came { Some(seen) } else { None }
    }

    /// 200 of applications, the code of other responses; none: there was none.
    pub(super) fn code(&self) -> Option<u16> {
        match &self.came {
            Came::Answer(_) => Some(200),
            Came::Code(code, _) => Some(*code),
            Came::Nothing(_) | Came::Waiting => None,
        }
    }

    pub(super) fn is_nothing(&self) -> bool {
        matches!(self.came, Came::Nothing(_))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.came {
            Came::Answer(seen) => write!(f, "{} answered, called by {}", seen.pod, seen.peer)?,
            Came::Code(code, text) => write!(f, "{code} {text:?}")?,
            Came::Nothing(why) => write!(f, "nothing ({why})")?,
            Came::Waiting => write!(f, "no end")?,
        }
        write!(f, " after {:?}", self.took)
    }
}

/// One request over a connection of its own, by a process of this user.
pub(super) fn get(net: &Net, uid: u32, to: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Outcome {
    let start = Instant::now();
    let came =
        net.connect(uid, to).and_then(|stream| ask(stream, path, headers)).map_or_else(|error| ended(&error), |text| read(&text));
    Outcome { came, took: start.elapsed() }
}

/// The same on a connection that is there.
pub(super) fn get_on(stream: &mut (impl io::Read + io::Write), path: &str) -> Outcome {
    let start = Instant::now();
    let came = exchange(stream, path, &[]).map_or_else(|error| ended(&error), |text| read(&text));
    Outcome { came, took: start.elapsed() }
}

fn ended(error: &io::Error) -> Came {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Came::Waiting,
        _ => Came::Nothing(error.to_string()),
    }
}

fn ask(mut stream: std::net::TcpStream, path: &str, headers: &[(&str, &str)]) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    exchange(&mut stream, path, headers)
}

fn exchange(stream: &mut (impl io::Read + io::Write), path: &str, headers: &[(&str, &str)]) -> io::Result<String> {
    let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    write!(stream, "GET {path} HTTP/1.1\r\nhost: whatever\r\nconnection: close\r\n{headers}\r\n")?;
    let mut text = Vec::new();
    let ended = stream.read_to_end(&mut text);
    // Under TLS an end may come without its alert.
    if text.is_empty() {
        ended?;
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn read(text: &str) -> Came {
    let Some(code) = text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()) else {
        return Came::Nothing(format!("{} bytes", text.len()));
    };
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match serde_json::from_str(body) {
        Ok(seen) if code == 200 => Came::Answer(seen),
        _ => Came::Code(code, body.to_owned()),
    }
}

/// How long it takes until a server has said who it is, which is to speak first; and then that it is the end of what was dialled.
pub(super) fn greeted(net: &Net, uid: u32, to: SocketAddr, by: &str) -> Result<Duration, String> {
    let start = Instant::now();
    let exchange = || -> io::Result<(String, Duration)> {
        let mut stream = net.connect(uid, to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = vec![0; by.len()];
        stream.read_exact(&mut text)?;
        let took = start.elapsed();
        stream.write_all(b"and more")?;
        let mut more = [0; 8];
        stream.read_exact(&mut more)?;
        text.extend(more);
        Ok((String::from_utf8_lossy(&text).into_owned(), took))
    };
    match exchange() {
        Ok((text, took)) if text == format!("{by}and more") => Ok(took),
        other => Err(format!("{other:?}")),
    }
}
