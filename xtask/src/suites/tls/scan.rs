//! sslyze's view of the HTTPS listener, compared with what Mozilla recommends for services of the internet ("intermediate").

use std::path::Path;
use std::process::Command;

use crate::process;
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::tls::HTTPS;

/// What must stand below a heading, besides what the comparison finds. With a certificate for ECDSA and one for RSA, every cipher of ours
/// is reached.
const FINDINGS: [(&str, &str); 5] = [
    ("TLS 1.2 Cipher Suites", "The server accepted the following 6 cipher suites:"),
    ("TLS 1.3 Cipher Suites", "The server accepted the following 3 cipher suites:"),
    ("TLS 1.3 Early Data", "Not Supported"),
    ("Session Renegotiation", "Client Renegotiation DoS Attack:   OK - Not vulnerable"),
    ("Elliptic Curve Key Exchange", "Supported curves:                  X25519, secp256r1, secp384r1"),
];

pub(super) fn run(program: &Path, stage: &Stage, gateway: &Instance, notes: &mut Vec<String>) -> Result<(), String> {
    let address = gateway.at(HTTPS);
    let mut command = Command::new("timeout");
    command.arg("120").arg(program).args(["--mozilla_config=intermediate", "--early_data", "--certinfo_ca_file"]);
    command.arg(stage.file("authority.pem")).arg(format!("edge.example:{}{{{}}}", address.port(), address.ip()));
    // It fails when it finds something; when it finds nothing to look at, it does not.
    let said = process::capture(&mut command).map_err(|fault| fault.to_string())?;
    if !said.contains("OK - Compliant.") {
        return Err(format!("not compliant:{}", process::tail(&said, 30)));
    }
    for (heading, wanted) in FINDINGS {
        if !below(&said, heading).any(|line| line == wanted) {
            return Err(format!("{heading}: no `{wanted}` in:{}", process::tail(&said, 200)));
        }
    }
    notes.push("sslyze: compliant with Mozilla's `intermediate`".to_owned());
    Ok(())
}

/// The lines from a heading to the next one.
fn below<'s>(said: &'s str, heading: &str) -> impl Iterator<Item = &'s str> {
    let start = format!(" * {heading}:");
    said.lines().skip_while(move |line| *line != start).skip(1).take_while(|line| !line.starts_with(" * ")).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_belongs_to_its_heading() {
        let said = " * TLS 1.2:\n     two\n\n * TLS 1.3:\n     three\n\n * Other:\n     two\n";
        assert_eq!(below(said, "TLS 1.3").collect::<Vec<_>>(), ["three", ""]);
        assert_eq!(below(said, "TLS 1").count(), 0);
    }
}
