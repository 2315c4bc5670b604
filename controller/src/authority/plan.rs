//! What should be held at a time: no clock and no client, only keys are made here.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls_pki_types::UnixTime;

use super::content::{Ca, Content, Leaf, Validity, is_trusted, validity};

const HOUR: u64 = 3600;
pub(crate) const DAY: u64 = 24 * HOUR;
/// How long a CA's certificate holds.
const CA_LIFE: u64 = 3650 * DAY;
/// When its successor enters the bundle, before its end.
pub(crate) const CA_OVERLAP: u64 = 365 * DAY;
/// How long the successor of a mesh's root is only trusted before it signs: every proxy has had time for it.
pub(crate) const SETTLE: u64 = DAY;
/// The same of the CA that proxies know the controller by. A sidecar has what its pod was given when it was made, so a pod may be as old as
/// this.
const SETTLE_PUSH: u64 = 300 * DAY;
/// How long before its end the CA that proxies know the controller by gives way to its successor, also to one that came late: not all trust
/// that one then, but whoever does would not take a third one.
const LATE: u64 = 30 * DAY;
/// How long a leaf holds; it is renewed at two thirds.
const LEAF_LIFE: u64 = 90 * DAY;
/// Certificates hold from before they are made, for clocks that go behind.
pub(crate) const SKEW: u64 = HOUR;

/// What should be held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<C> {
    /// All of it.
    pub content: C,
    /// Why it differs from what is held; none: it does not.
    pub change: Option<&'static str>,
}

/// What should be held now, given what is. The leaf has these names; there has to be one.
///
/// # Errors
/// When a key or certificate cannot be made.
pub fn plan(held: Option<&Content>, names: &[String], now: UnixTime) -> Result<Plan<Content>, rcgen::Error> {
    let seconds = now.as_secs();
    let holds = |certificate: &str| validity("ca.crt", certificate).is_ok_and(|held| (held.from..held.to).contains(&seconds));
    let can_sign =
        |held: &&Content| [Some(&held.signer), held.next.as_ref()].into_iter().flatten().any(|ca| holds(&ca.certificate));
    let Some(held) = held.filter(can_sign) else {
        let signer = ca(seconds)?;
        let leaf = leaf(&signer, names, seconds)?;
        return Ok(Plan { content: Content { signer, next: None, former: Vec::new(), leaf }, change: Some("a new CA and leaf") });
    };
    let mut content = held.clone();
    let mut change = None;
    let ends = |certificate: &str| validity("ca.crt", certificate).map_or(0, |validity| validity.to);
    match content.next.take() {
        Some(next) if is_due(&next, &content.signer, seconds, holds) => {
            content.former.push(std::mem::replace(&mut content.signer, next).certificate);
            change = Some("the next CA signs");
        }
        Some(next) => content.next = Some(next),
        None if ends(&content.signer.certificate) < seconds + CA_OVERLAP => {
            content.next = Some(ca(seconds)?);
            change = Some("the next CA is trusted");
        }
        None => {}
    }
    let kept = content.former.len();
    content.former.retain(|certificate| ends(certificate) > seconds);
    if content.former.len() != kept {
        change = change.or(Some("a former CA has ended"));
    }
    let due = validity("tls.crt", &content.leaf.chain).map_or(0, renewal);
    if seconds >= due || !is_trusted(&content.signer.certificate, &content.leaf.chain, names, now) {
        content.leaf = leaf(&content.signer, names, seconds)?;
        change = change.or(Some("a new leaf"));
    }
    Ok(Plan { content, change })
}

/// When a leaf is to be renewed; at once if it ends before it begins, as none does that was made here.
fn renewal(Validity { from, to }: Validity) -> u64 {
    to.checked_sub(from).map_or(0, |life| from + life / 3 * 2)
}

/// Whether the next CA takes the place of the one that signs: at once of one that cannot sign.
fn is_due(next: &Ca, signer: &Ca, now: u64, holds: impl Fn(&str) -> bool) -> bool {
    let has_settled = |settle| validity("ca.crt", &next.certificate).is_ok_and(|next| now >= next.from + SKEW + settle);
    let ends_soon = validity("ca.crt", &signer.certificate).is_ok_and(|signer| signer.to < now + LATE);
    holds(&next.certificate) && (has_settled(SETTLE_PUSH) || ends_soon && has_settled(SETTLE) || !holds(&signer.certificate))
}

fn ca(now: u64) -> Result<Ca, rcgen::Error> {
    root("Isthmus push CA", now)
}

/// A new root: its name ends with when it was made.
pub(crate) fn root(name: &str, now: u64) -> Result<Ca, rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = params(&format!("{name} {now}"), now, CA_LIFE);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Ca { certificate: unix_lines(&params.self_signed(&key)?.pem()), key: key.serialize_pem() })
}

fn leaf(ca: &Ca, names: &[String], now: u64) -> Result<Leaf, rcgen::Error> {
    let issuer = Issuer::from_ca_cert_pem(&ca.certificate, KeyPair::from_pem(&ca.key)?)?;
    let key = KeyPair::generate()?;
    let mut params = params(names.first().map_or("", String::as_str), now, LEAF_LIFE);
    let alternative = |name: &String| Ok(rcgen::SanType::DnsName(name.as_str().try_into()?));
    params.subject_alt_names = names.iter().map(alternative).collect::<Result<_, rcgen::Error>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    Ok(Leaf { chain: unix_lines(&params.signed_by(&key, &issuer)?.pem()), key: key.serialize_pem() })
}

fn params(name: &str, now: u64, life: u64) -> CertificateParams {
    let mut params = holding(Validity { from: now.saturating_sub(SKEW), to: now + life });
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A certificate without a name that holds so.
pub(crate) fn holding(Validity { from, to }: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let at = |seconds| date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    params.not_before = at(from);
    params.not_after = at(to);
    params
}

/// A Secret and a ConfigMap read better without carriage returns.
pub(crate) fn unix_lines(pem: &str) -> String {
    pem.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leaf_is_renewed_at_two_thirds_or_at_once_if_it_ends_before_it_begins() {
        for (from, to, expected) in [(100, 400, 300), (0, 90, 60), (400, 400, 400), (400, 100, 0)] {
            assert_eq!(renewal(Validity { from, to }), expected, "{from} to {to}");
        }
    }
}
