//! One second of load by wrk, a client that was not written here.

use std::net::SocketAddr;
use std::process::Command;

use super::figures::Slice;
use super::scene::{HOST, PATH, far};
use crate::fault::Fault;
use crate::process;

const CONNECTIONS: &str = "32";

/// What wrk saw.
#[derive(Debug, PartialEq)]
pub(super) struct Load {
    pub(super) requests: f64,
    pub(super) seconds: f64,
    p50_ms: f64,
    p99_ms: f64,
}

/// Fails when any request was not answered with 2xx.
pub(super) fn run(target: SocketAddr) -> Result<Load, Fault> {
    let mut wrk = Command::new("timeout");
    wrk.args(["20", "wrk", "-t1", "-c", CONNECTIONS, "-d1s", "--latency", "-H", &format!("Host: {HOST}")]);
    wrk.arg(format!("http://{target}{PATH}"));
    let said = process::capture(&mut far(&wrk))?;
    parse(&said).map_err(|why| Fault::said(format!("{why}, wrk said:\n{said}")))
}

impl From<Load> for Slice {
    fn from(load: Load) -> Self {
        Self { p50_ms: load.p50_ms, p99_ms: load.p99_ms, ..Self::default() }
    }
}

fn parse(said: &str) -> Result<Load, String> {
    if let Some(line) = said.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors")) {
        return Err(line.trim().to_owned());
    }
    let percentile = |name: &str| {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|value| milliseconds(value.trim())).ok_or_else(|| format!("there is no {name}"))
    };
    let total = said.lines().find_map(|line| line.trim().split_once(" requests in ")).ok_or("there is no count")?;
    let requests = total.0.parse().map_err(|_| "the count is no number".to_owned())?;
    let time = total.1.split(',').next().unwrap_or_default();
    let seconds = milliseconds(time).ok_or("the time is no number")? / 1000.0;
    if requests == 0.0 {
        return Err("there was no answer".to_owned());
    }
    Ok(Load { requests, seconds, p50_ms: percentile("50%")?, p99_ms: percentile("99%")? })
}

/// `123.45us`, `1.20ms`, `1.02s`.
fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()) {
            return Some(number * factor);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "\
Running 1s test @ http://127.0.0.1:8080/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   762.44us  153.96us   3.61ms   80.95%
    Req/Sec    41.80k     2.39k   44.90k    81.82%
  Latency Distribution
     50%  740.00us
     75%    0.83ms
     90%    0.93ms
     99%    1.25ms
  45829 requests in 1.10s, 12.50MB read
Requests/sec:  41662.73
Transfer/sec:     11.36MB
";

    #[test]
    fn what_wrk_says_is_read() {
        let load = parse(SAID).expect("is complete");
        assert_eq!(load, Load { requests: 45829.0, seconds: 1.1, p50_ms: 0.74, p99_ms: 1.25 });
    }

    #[test]
    fn errors_are_not_figures() {
        for line in ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0, timeout 0\n"] {
            assert_eq!(parse(&format!("{SAID}{line}")), Err(line.trim().to_owned()));
        }
        for missing in ["50%", "99%", " requests in "] {
            assert!(parse(&SAID.replace(missing, "?")).is_err(), "{missing}");
        }
        assert!(parse(&SAID.replace("45829", "0")).is_err());
    }

    #[test]
    fn units_are_known() {
        for (text, wanted) in
            [("750.00us", Some(0.75)), ("1.25ms", Some(1.25)), ("1.02s", Some(1020.0)), ("3m", None), ("", None)]
        {
            assert_eq!(milliseconds(text), wanted, "{text}");
        }
    }
}
