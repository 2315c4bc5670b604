//! A certificate that is swapped again and again under traffic that opens connections all the time. One of the new ones is broken.

use std::process::Command;
use std::time::Instant;

use crate::fault::Fault;
use crate::process;
use crate::suites::certificate::{self, Authority, Issued};
use crate::suites::client::Client;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::zero_loss::edit::seen;
use crate::suites::zero_loss::traffic::{HOST, Traffic};

const SWAPS: usize = 100;
const BROKEN: usize = 50;
/// Requests between two swaps, a quarter of them on TLS connections of their own.
const REQUESTS_EACH: usize = 40;
/// New connections that are looked at while the new certificate is broken.
const LOOKS: usize = 50;

pub(super) fn run(
    stage: &Stage,
    gateway: &Instance,
    authority: &Authority,
    notes: &mut Vec<String>,
) -> Result<Result<(), String>, Fault> {
    let start = Instant::now();
    let traffic = Traffic::start(&[gateway.into()], &authority.client()?);
    let swapped = Rotation { stage, gateway, authority, traffic: &traffic }.swaps();
    let count = traffic.finish();
    notes.push(format!("{SWAPS} certificates in {:.1} s: {count}", start.elapsed().as_secs_f32()));
    Ok(swapped.and_then(|()| count.verdict()).map_err(|why| format!("{why}{}", gateway.said())))
}

struct Rotation<'a> {
    stage: &'a Stage,
    gateway: &'a Instance,
    authority: &'a Authority,
    traffic: &'a Traffic,
}

impl Rotation<'_> {
    fn swaps(&self) -> Result<(), String> {
        let mut last = None;
        for number in 1..=SWAPS {
            let issued = self.authority.issue("edge", &[HOST]).map_err(|fault| fault.to_string())?;
            match &last {
                Some(last) if number == BROKEN => self.broken(&issued, last),
                _ => self.good(&issued),
            }
            .map_err(|why| format!("certificate {number}: {why}"))?;
            if number != BROKEN {
                last = Some(issued);
            }
            self.traffic.wait_for_more(REQUESTS_EACH);
        }
        Ok(())
    }

    fn good(&self, issued: &Issued) -> Result<(), String> {
        self.put(&issued.secret)?;
        seen("it", || self.shown().is_ok_and(|shown| shown == issued.der))
    }

    /// The certificate is new and its key is another's: the one before it goes on, and the status says why.
    fn broken(&self, issued: &Issued, last: &Issued) -> Result<(), String> {
        self.put(&certificate::secret("edge", &issued.chain, &last.key))?;
        let wanted = "ResolvedRefs=False InvalidCertificateRef: Secret default/edge has a `tls.key` that does not belong";
        seen("its condition", || self.gateway.said().contains(wanted))?;
        for look in 1..=LOOKS {
            if self.shown()? != last.der {
                return Err(format!("new connection {look} is not shown the one before it"));
            }
        }
        self.traffic.wait_for_more(REQUESTS_EACH);
        // What a pipeline would be told of this folder. It exits with 1, for what is not good.
        let mut once = Command::new(&self.stage.isthmus);
        match process::capture(once.arg("run").arg(self.stage.yaml()).args(["--once", "--output", "yaml"])) {
            Err(Fault::Command { output, .. }) if output.contains(wanted) => Ok(()),
            Err(fault) => Err(format!("--once says something else: {fault}")),
            Ok(said) => Err(format!("--once says that all is good: {said}")),
        }
    }

    /// The certificate of a new connection, which has to answer as well.
    fn shown(&self) -> Result<Vec<u8>, String> {
        let config = self.authority.client().map_err(|fault| fault.to_string())?;
        let mut client = Client::tls(self.gateway.at(443), config);
        client.get(HOST, "/").map_err(|fault| fault.to_string())?;
        client.certificate().ok_or_else(|| "no certificate".to_owned())
    }

    fn put(&self, secret: &str) -> Result<(), String> {
        self.stage.write("certificate.yaml", secret).map_err(|fault| fault.to_string())
    }
}
