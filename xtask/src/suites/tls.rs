//! sslyze and `openssl s_client` against listeners that end TLS: what is spoken, which certificate is shown, whose is taken, and where a
//! session is resumed.

mod s_client;
mod scan;

use std::process::Command;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};

use crate::fault::Fault;
use crate::process;
use crate::suites::certificate::{Authority, Issued};
use crate::suites::instance::Instance;
use crate::suites::stage::Stage;
use crate::suites::tls::s_client::Dialer;
use crate::suites::{Outcome, tools};

/// The ports of the folder's Gateway.
const HTTPS: u16 = 443;
const ANY: u16 = 444;
const STRICT: u16 = 445;
const OPTIONAL: u16 = 446;
const MODERN: u16 = 447;
const CHOSEN: u16 = 448;

const DAY: Duration = Duration::from_hours(24);

/// Alerts of TLS by their numbers.
mod alert {
    pub(super) const HANDSHAKE_FAILURE: u8 = 40;
    pub(super) const UNSUPPORTED_CERTIFICATE: u8 = 43;
    pub(super) const CERTIFICATE_EXPIRED: u8 = 45;
    pub(super) const UNKNOWN_CA: u8 = 48;
    pub(super) const PROTOCOL_VERSION: u8 = 70;
    pub(super) const UNRECOGNIZED_NAME: u8 = 112;
    pub(super) const CERTIFICATE_REQUIRED: u8 = 116;
}

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let (sslyze, openssl) = (tools::sslyze()?, tools::openssl()?);
    let authority = Authority::new()?;
    stage.keep(&stage.file("authority.pem"), authority.pem().as_bytes())?;
    let rsa =
        process::capture(Command::new(&openssl).args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"]))?;
    let keys = [("ecdsa", key(KeyPair::generate())?), ("rsa", key(KeyPair::from_pem(&rsa))?)];
    for (name, key) in &keys {
        let names = ["edge.example", "shop.example"];
        stage.write(&format!("{name}.yaml"), &authority.issue_with(name, &names, key, ninety_days)?.secret)?;
    }
    let clients = Clients::make(stage)?;
    let log = stage.file("access.log");
    let log_flag = log.display().to_string();
    let gateway =
        Instance::start(stage, &[HTTPS, ANY, STRICT, OPTIONAL, MODERN, CHOSEN], &["--echo", "--access-log", &log_flag])?;
    let dialer = Dialer { stage, gateway: &gateway };

    let mut outcome = Outcome::default();
    let mut notes = Vec::new();
    outcome.count("sslyze", scan::run(&sslyze, stage, &gateway, &mut notes));
    names(&dialer, &mut outcome);
    versions(&dialer, &mut outcome);
    sessions(&dialer, &clients, &mut outcome);
    certificates(&dialer, &clients, &mut outcome);
    outcome.count("clients are named in the access log", clients_in(&log));
    outcome.notes = notes;
    Ok(outcome)
}

fn key(key: Result<KeyPair, rcgen::Error>) -> Result<KeyPair, Fault> {
    key.map_err(|fault| Fault::said(format!("making a key: {fault}")))
}

/// As a public authority would make it today.
fn ninety_days(params: &mut CertificateParams) {
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - DAY).into(), (now + 89 * DAY).into());
}

/// Certificates of clients, as files that `openssl s_client` takes.
struct Clients {
    /// For each name the flags that show it.
    flags: Vec<(&'static str, Vec<String>)>,
}

impl Clients {
    fn make(stage: &Stage) -> Result<Self, Fault> {
        let (ours, theirs) = (Authority::named("clients of ours")?, Authority::named("clients of others")?);
        let pem = ours.pem().replace('\n', "\n    ");
        let bundle = format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: clients\ndata:\n  ca.crt: |\n    {pem}\n");
        stage.write("clients.yaml", &bundle)?;
        let of = |authority: &Authority, edit: fn(&mut CertificateParams)| {
            authority.issue_with("client", &["client.example"], &key(KeyPair::generate())?, edit)
        };
        let made = [
            ("right", of(&ours, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth])?),
            ("of another authority", of(&theirs, |_| {})?),
            ("expired", of(&ours, |params| params.not_after = (SystemTime::now() - DAY).into())?),
            ("of a server", of(&ours, |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth])?),
        ];
        let mut flags = vec![("absent", Vec::new())];
        for (number, (name, Issued { chain, key, .. })) in made.into_iter().enumerate() {
            let file = stage.file(&format!("client-{number}.pem"));
            stage.keep(&file, format!("{chain}{key}").as_bytes())?;
            let file = file.display().to_string();
            flags.push((name, ["-cert", &file, "-key", &file].map(str::to_owned).into()));
        }
        Ok(Self { flags })
    }

    fn flags(&self, name: &str) -> Vec<&str> {
        let found = self.flags.iter().find(|(known, _)| *known == name);
        found.map(|(_, flags)| flags.iter().map(String::as_str).collect()).unwrap_or_default()
    }
}

/// Server names: known, unknown, absent.
fn names(dialer: &Dialer<'_>, outcome: &mut Outcome) {
    outcome.count("a known name", dialer.serves(HTTPS, "edge.example", &["-servername", "edge.example"]));
    outcome.count("a known name in capitals", dialer.serves(HTTPS, "edge.example", &["-servername", "EDGE.Example"]));
    for (name, flags) in [("an unknown name", &["-servername", "nobody.example"][..]), ("no name", &["-noservername"])] {
        outcome.count(&format!("{name} is refused"), dialer.refuses(HTTPS, flags, alert::UNRECOGNIZED_NAME, "no_certificate"));
        outcome.count(&format!("{name}, where a listener takes all"), dialer.serves(ANY, "nobody.example", flags));
    }
}

fn versions(dialer: &Dialer<'_>, outcome: &mut Outcome) {
    let edge = |flags: &[&'static str]| [&["-servername", "edge.example"], flags].concat();
    for (name, flag) in [("TLS 1.2", "-tls1_2"), ("TLS 1.3", "-tls1_3")] {
        outcome.count(name, dialer.serves(HTTPS, "edge.example", &edge(&[flag])));
    }
    for curve in ["X25519", "P-256", "P-384"] {
        outcome.count(curve, dialer.serves(HTTPS, "edge.example", &edge(&["-curves", curve])));
    }
    for (name, flags) in [("RSA", ["-sigalgs", "RSA-PSS+SHA256"]), ("ECDSA", ["-sigalgs", "ECDSA+SHA256"])] {
        outcome.count(&format!("a client that knows {name} only"), dialer.serves(HTTPS, "edge.example", &edge(&flags)));
    }
    // Old versions need an OpenSSL that lets go of its own rules. It names no signature algorithms then, which is what is complained of.
    let old = ["-cipher", "DEFAULT:@SECLEVEL=0"];
    for (name, flag) in [("TLS 1.0", "-tls1"), ("TLS 1.1", "-tls1_1")] {
        let flags = edge(&[&[flag], &old[..]].concat());
        outcome.count(&format!("{name} is refused"), dialer.refuses(HTTPS, &flags, alert::HANDSHAKE_FAILURE, "handshake"));
    }
    outcome.count("min-version 1.3 speaks it", dialer.serves(MODERN, "edge.example", &edge(&["-tls1_3"])));
    let refused = dialer.refuses(MODERN, &edge(&["-tls1_2"]), alert::PROTOCOL_VERSION, "handshake");
    outcome.count("min-version 1.3 refuses 1.2", refused);
    for (flags, cipher) in
        [(["-tls1_3", "-ciphersuites"], "TLS_AES_256_GCM_SHA384"), (["-tls1_2", "-cipher"], "ECDHE-ECDSA-AES256-GCM-SHA384")]
    {
        let flags = edge(&[flags[0], flags[1], cipher]);
        let refused = dialer.refuses(CHOSEN, &flags, alert::HANDSHAKE_FAILURE, "handshake");
        outcome.count(&format!("cipher-suites without {cipher} refuses it"), refused);
    }
    outcome.count("cipher-suites", dialer.serves(CHOSEN, "edge.example", &edge(&[])));
}

fn sessions(dialer: &Dialer<'_>, clients: &Clients, outcome: &mut Outcome) {
    for version in ["-tls1_2", "-tls1_3"] {
        let with = |name: &'static str| [version, "-servername", name];
        let (edge, shop) = (with("edge.example"), with("shop.example"));
        let mut case = |name: &str, first: (u16, &[&str]), second: (u16, &[&str]), resumed: bool| {
            outcome.count(&format!("{name} {version}"), dialer.session(first, second, resumed));
        };
        case("a session is resumed", (HTTPS, &edge), (HTTPS, &edge), true);
        case("no session crosses to another listener of the port", (HTTPS, &edge), (HTTPS, &shop), false);
        case("no session crosses to a listener of another port", (HTTPS, &edge), (ANY, &edge), false);
        let right = [&edge[..], &clients.flags("right")].concat();
        case("a session with a certificate is resumed", (STRICT, &right), (STRICT, &right), true);
        case("no session crosses to a listener with other client rules", (OPTIONAL, &right), (STRICT, &right), false);
        // What counts most: a session that was made without a certificate.
        let refused = dialer.refuses_session((OPTIONAL, &edge), (STRICT, &edge), "client_certificate_absent");
        outcome.count(&format!("no session without a certificate gets in where one is needed {version}"), refused);
    }
}

fn certificates(dialer: &Dialer<'_>, clients: &Clients, outcome: &mut Outcome) {
    for version in ["-tls1_2", "-tls1_3"] {
        for (name, refusal) in [
            ("right", None),
            ("absent", Some((alert::CERTIFICATE_REQUIRED, "client_certificate_absent"))),
            ("of another authority", Some((alert::UNKNOWN_CA, "client_certificate_unknown_authority"))),
            ("expired", Some((alert::CERTIFICATE_EXPIRED, "client_certificate_expired"))),
            ("of a server", Some((alert::UNSUPPORTED_CERTIFICATE, "client_certificate_invalid"))),
        ] {
            let flags = [&[version][..], &clients.flags(name)].concat();
            let strict = match refusal {
                None => dialer.serves(STRICT, "edge.example", &flags),
                Some((alert, reason)) => dialer.refuses(STRICT, &flags, alert, reason),
            };
            outcome.count(&format!("a client's certificate: {name} {version}"), strict);
            let optional = dialer.serves(OPTIONAL, "edge.example", &flags);
            outcome.count(&format!("a client's certificate, optional: {name} {version}"), optional);
        }
    }
}

/// The right one is named, and nobody else.
fn clients_in(log: &std::path::Path) -> Result<(), String> {
    let text = std::fs::read_to_string(log).map_err(|fault| format!("{}: {fault}", log.display()))?;
    let lines = text.lines().map(serde_json::from_str::<serde_json::Value>);
    let mut named = 0;
    for line in lines {
        let line = line.map_err(|fault| format!("a line that is no JSON: {fault}"))?;
        match line["client_certificate"].as_str() {
            Some(name) if name.starts_with("DNS:client.example, CN=") => named += 1,
            Some(name) => return Err(format!("an unknown client: {name}")),
            None if line["listener"] == "strict" => return Err(format!("nobody came to `strict`: {line}")),
            None => {}
        }
    }
    if named > 0 { Ok(()) } else { Err("nobody is named".to_owned()) }
}
