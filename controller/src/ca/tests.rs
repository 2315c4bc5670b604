use std::collections::BTreeSet;

use rcgen::{CertificateParams, IsCa, KeyPair};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::content::is_own;
use super::issuer::{BACKDATED, Leaf, verify};
use super::*;
use crate::authority::tests::Store;
use crate::authority::{SETTLE as TRUSTED_BEFORE, der, parsed, validity};

const HOUR: u64 = 3600;
/// Some day in 2027: after the fixtures were made.
const START: u64 = 1_811_000_000;

fn at(seconds: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(seconds))
}

fn cart() -> Identity {
    Identity { namespace: "shop".to_owned(), account: "cart".to_owned() }
}

fn own() -> Content {
    plan::plan(None, at(START)).unwrap().content
}

fn issuer(content: &Content) -> Result<Issuer, Malformed> {
    Issuer::new(content, &TrustDomain::default(), at(START))
}

/// A request that asks for all sorts of things.
fn request(key: &KeyPair) -> String {
    let mut params = CertificateParams::new(vec!["bank.other.sa.cluster.local".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 57_264, 1], vec![5, 0])];
    params.serialize_request(key).unwrap().pem().unwrap()
}

fn issue(content: &Content, lifetime: u64, now: u64) -> Leaf {
    let key = request::public_key(&request(&KeyPair::generate().unwrap())).unwrap();
    issuer(content).unwrap().issue(&cart(), &key, lifetime, at(now)).unwrap()
}

fn takes(authorities: &str, leaf: &Leaf, now: u64) -> Result<(), String> {
    let roots: Vec<_> = CertificateDer::pem_slice_iter(authorities.as_bytes()).collect::<Result<_, _>>().unwrap();
    verify(&leaf.chain, &roots, "cart.shop.sa.cluster.local", at(now))
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/ca/fixtures/", $name)).to_owned()
    };
}

mod kept;

/// An intermediate of a company, which a user has brought.
fn brought(certificate: String, key: String) -> Content {
    Content { chain: vec![certificate], key, roots: vec![fixture!("root.crt")], next: None }
}

#[test]
fn a_leaf_says_who_it_is_and_nothing_that_was_asked_for() {
    let content = own();
    let key = KeyPair::generate().unwrap();
    let public = request::public_key(&request(&key)).unwrap();
    let issuer = issuer(&content).unwrap();
    let leaf = issuer.issue(&cart(), &public, 24 * HOUR, at(START)).unwrap();
    let der = der("tls.crt", &leaf.chain).unwrap();
    let certificate = parsed("tls.crt", &der).unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let uri = GeneralName::URI("spiffe://cluster.local/ns/shop/sa/cart");
    assert_eq!(names.value.general_names, [uri, GeneralName::DNSName("cart.shop.sa.cluster.local")]);
    assert!(names.critical, "without a subject they have to be understood");
    assert!(certificate.subject().as_raw() == [0x30, 0], "no subject");
    assert!(!certificate.is_ca());
    assert!(certificate.basic_constraints().unwrap().is_some());
    let usage = certificate.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && usage.client_auth && !usage.any && usage.other.is_empty());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    assert!(certificate.public_key().raw == rcgen::PublicKeyData::subject_public_key_info(&key));
    let known = certificate.iter_extensions().count();
    assert_eq!(known, 6, "names, both usages, constraints, its key's name and that of the key that signed");
    let held = validity("tls.crt", &leaf.chain).unwrap();
    assert_eq!((held.from, held.to), (START - BACKDATED, START + 24 * HOUR));
    assert_eq!(leaf.ends, held.to);
    assert!(!certificate.tbs_certificate.serial.to_bytes_be().is_empty() && certificate.raw_serial()[0] < 0x80);
    let serials: BTreeSet<_> = (0..64).map(|_| issue(&content, HOUR, START).serial).collect();
    assert_eq!(serials.len(), 64);
}

#[test]
fn a_leaf_holds_for_its_time_and_never_beyond_its_issuer() {
    let content = own();
    let ends = issuer(&content).unwrap().ends();
    let authorities = content.authorities();
    for (now, lifetime, expected) in [
        (START, 24 * HOUR, START + 24 * HOUR),
        (START, 10, START + 10),
        (ends - HOUR, 24 * HOUR, ends),
        (ends - 1, 24 * HOUR, ends),
    ] {
        let leaf = issue(&content, lifetime, now);
        assert_eq!(leaf.ends, expected);
        takes(&authorities, &leaf, now).unwrap();
        // A clock that goes behind.
        takes(&authorities, &leaf, now - 5 * 60).unwrap();
        takes(&authorities, &leaf, expected).unwrap();
        assert!(takes(&authorities, &leaf, expected + 1).is_err());
    }
    let key = request::public_key(&request(&KeyPair::generate().unwrap())).unwrap();
    let error = issuer(&content).unwrap().issue(&cart(), &key, HOUR, at(ends)).unwrap_err();
    assert!(error.to_string().contains("has ended"), "{error}");
}

#[test]
fn an_account_with_a_long_name_gets_the_name_that_it_is_called_by() {
    let identity = Identity { namespace: "shop".to_owned(), account: "a".repeat(253) };
    let content = own();
    let key = request::public_key(&request(&KeyPair::generate().unwrap())).unwrap();
    let leaf = issuer(&content).unwrap().issue(&identity, &key, HOUR, at(START)).unwrap();
    let roots = [der("ca.crt", &content.authorities()).unwrap()];
    verify(&leaf.chain, &roots, &identity.dns_name(&TrustDomain::default()), at(START)).unwrap();
}

#[test]
fn only_a_key_that_has_signed_its_request_is_taken() {
    let good = request(&KeyPair::generate().unwrap());
    let of = |algorithm| request(&KeyPair::generate_for(algorithm).unwrap());
    let der = |pem: &str| rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap().to_vec();
    let pem = |der: Vec<u8>| sealed::pem(&der).replace("CERTIFICATE", "CERTIFICATE REQUEST");
    // Somebody else's key in a request that was signed by another: the last bytes are the signature.
    let mut forged = der(&good);
    *forged.last_mut().unwrap() ^= 1;
    let mut followed = der(&good);
    followed.push(0);
    let (key, signature, unreadable) =
        ("the request's key is none of", "the request's signature", "the request for a certificate");
    for (what, csr, expected) in [
        ("P-256", good.clone(), None),
        ("P-384", of(&rcgen::PKCS_ECDSA_P384_SHA384), None),
        ("Ed25519", of(&rcgen::PKCS_ED25519), None),
        ("RSA 2048", fixture!("rsa-2048.csr"), None),
        ("RSA 3072", fixture!("rsa-3072.csr"), None),
        ("RSA 1024", fixture!("rsa-1024.csr"), Some(key)),
        ("RSA with SHA-1", fixture!("rsa-sha1.csr"), Some(signature)),
        ("P-521", fixture!("secp521r1.csr"), Some(key)),
        ("secp256k1", fixture!("secp256k1.csr"), Some(key)),
        ("another signature", pem(forged), Some(signature)),
        ("more behind it", pem(followed), Some(unreadable)),
        ("nothing", String::new(), Some(unreadable)),
        ("words", "words".to_owned(), Some(unreadable)),
        ("a certificate", own().authorities(), Some(unreadable)),
        ("bytes", pem(vec![0x30, 0x03, 1, 2, 3]), Some(unreadable)),
        ("too long", "x".repeat(16 << 10) + &good, Some(unreadable)),
    ] {
        match (request::public_key(&csr), expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => assert!(error.to_string().starts_with(expected), "{what}: {error}"),
            other => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn a_key_of_any_kind_that_is_taken_gets_a_certificate() {
    let content = own();
    let issuer = issuer(&content).unwrap();
    let of = |algorithm| request(&KeyPair::generate_for(algorithm).unwrap());
    for csr in [of(&rcgen::PKCS_ECDSA_P384_SHA384), of(&rcgen::PKCS_ED25519), fixture!("rsa-2048.csr"), fixture!("rsa-3072.csr")]
    {
        let leaf = issuer.issue(&cart(), &request::public_key(&csr).unwrap(), HOUR, at(START)).unwrap();
        takes(&content.authorities(), &leaf, START).unwrap();
        let (_, csr) = x509_parser::pem::parse_x509_pem(csr.as_bytes()).unwrap();
        let (_, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&csr.contents).unwrap();
        let der = der("tls.crt", &leaf.chain).unwrap();
        let key = parsed("tls.crt", &der).unwrap().public_key().raw.to_vec();
        assert!(key == csr.certification_request_info.subject_pki.raw, "the key is the request's, byte for byte");
    }
}

/// As openssl and cert-manager write them: with keys in their traditional form, and names that have an attribute twice.
#[test]
fn an_intermediate_of_a_company_signs() {
    for (certificate, key) in
        [(fixture!("intermediate.crt"), fixture!("intermediate.key")), (fixture!("ec.crt"), fixture!("ec.key"))]
    {
        let content = brought(certificate.clone(), key.clone());
        let entries = content.entries();
        let content = Content::read(&entries).unwrap();
        assert!(!content.is_own());
        let leaf = issue(&content, HOUR, START);
        assert_eq!(leaf.chain.matches("BEGIN CERTIFICATE").count(), 2, "the intermediate comes with the leaf");
        takes(&fixture!("root.crt"), &leaf, START).unwrap();
        assert!(takes(&own().authorities(), &leaf, START).is_err());
        // Some write the root too: it is not sent.
        let whole = Content { chain: vec![certificate, fixture!("root.crt")], ..content.clone() };
        assert_eq!(issue(&whole, HOUR, START).chain.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(plan::plan(Some(&content), at(START + 3640 * DAY)).unwrap(), Plan { content, change: None });
    }
}

#[test]
fn a_root_of_any_kind_of_key_signs() {
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = crate::authority::holding(crate::authority::Validity { from: START, to: START + DAY });
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let root = params.self_signed(&key).unwrap().pem();
        // Whoever writes a Secret by hand leaves words and parameters in it.
        let entries = Entries::from([
            ("tls.crt".to_owned(), format!("Our root\n{root}").into_bytes()),
            (
                "tls.key".to_owned(),
                format!("-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n{}", key.serialize_pem())
                    .into_bytes(),
            ),
            ("ca.crt".to_owned(), format!("# Our root\r\n{}# and nothing else", root.replace('\n', "\r\n")).into_bytes()),
        ]);
        let content = Content::read(&entries).unwrap();
        let leaf = issue(&content, 2 * DAY, START + HOUR);
        assert_eq!((leaf.ends, leaf.chain.matches("BEGIN").count()), (START + DAY, 1));
        takes(&content.authorities(), &leaf, START + HOUR).unwrap();
        assert!(!content.is_own(), "it is a user's, with a name like any");
    }
}

#[test]
fn what_would_not_be_trusted_is_told_before_it_signs() {
    let key = || fixture!("ec.key");
    let other = own();
    for (what, content, expected) in [
        ("names of others only", brought(fixture!("narrow.crt"), key()), "what tls.crt signs would not be taken"),
        ("no authority", brought(fixture!("leaf.crt"), key()), "the first certificate of tls.crt is not of an authority"),
        ("may not sign", brought(fixture!("unsigning.crt"), key()), "the first certificate of tls.crt may not sign"),
        ("another key", brought(fixture!("ec.crt"), fixture!("intermediate.key")), "tls.key does not belong"),
        ("no key", brought(fixture!("ec.crt"), "words".to_owned()), "tls.key cannot be read"),
        (
            "another root",
            Content { roots: other.roots.clone(), ..brought(fixture!("ec.crt"), key()) },
            "what tls.crt signs would not be taken by those who trust ca.crt: UnknownIssuer",
        ),
        (
            "our own root without itself",
            Content { roots: vec![fixture!("root.crt")], ..other.clone() },
            "what tls.crt signs would not be taken by those who trust ca.crt: UnknownIssuer",
        ),
    ] {
        let error = issuer(&content).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{what}: {error}");
    }
}

#[test]
fn malformed_entries_are_told() {
    let good = own().entries();
    let with = |entry: &str, bytes: Option<&[u8]>| {
        let mut entries = good.clone();
        entries.remove(entry);
        entries.extend(bytes.map(|bytes| (entry.to_owned(), bytes.to_vec())));
        entries
    };
    assert_eq!(Content::read(&good).unwrap(), own_again(&good));
    for (entries, expected) in [
        (Entries::new(), "tls.crt is missing or not text"),
        (with("tls.key", None), "tls.key is missing or not text"),
        (with("ca.crt", None), "ca.crt is missing or not text"),
        (with("ca.crt", Some(b"words")), "ca.crt is missing or not text"),
        (with("tls.crt", Some(b"\xff")), "tls.crt is missing or not text"),
        (with("ca.crt", Some(b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----")), "ca.crt cannot be read: "),
    ] {
        let error = Content::read(&entries).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let odd = Content::read(&with("next.key", Some(b"words"))).unwrap();
    assert!(odd.next.is_none(), "a key of which the root is not known is nobody's");
}

fn own_again(entries: &Entries) -> Content {
    let content = Content::read(entries).unwrap();
    assert_eq!(content.entries(), *entries);
    content
}

/// 25 years in steps of a day: whoever has the roots of yesterday takes the leaf of today, and with those of today that of yesterday.
#[test]
fn no_rotation_is_ever_noticed() {
    let mut content = own();
    let mut yesterday = (content.authorities(), issue(&content, 25 * HOUR, START));
    let mut changes: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for day in 1..25 * 365 {
        let now = START + day * DAY;
        let planned = plan::plan(Some(&content), at(now)).unwrap();
        assert_eq!(plan::plan(Some(&planned.content), at(now)).unwrap().change, None, "one step at a time, day {day}");
        content = Content::read(&planned.content.entries()).unwrap();
        assert_eq!(content, planned.content, "day {day}");
        if let Some(change) = planned.change {
            *changes.entry(change).or_default() += 1;
        }
        // Making keys takes most of the time.
        if planned.change.is_some() || day % 100 == 0 {
            let leaf = issue(&content, 25 * HOUR, now);
            takes(&yesterday.0, &leaf, now).unwrap();
            let before = issue(&content, 25 * HOUR, now - DAY);
            takes(&content.authorities(), &before, now).unwrap();
        }
        if day % 100 == 99 || planned.change.is_some() {
            takes(&content.authorities(), &yesterday.1, validity("tls.crt", &yesterday.1.chain).unwrap().to).unwrap();
            yesterday.1 = issue(&content, 25 * HOUR, now);
        }
        yesterday.0 = content.authorities();
    }
    assert_eq!(changes["the next root is trusted"], 2);
    assert_eq!(changes["the next root signs"], 2);
    assert_eq!(changes["a former root has ended"], 2);
}

#[test]
fn the_next_root_is_trusted_long_before_it_signs() {
    let content = own();
    let late = START + 3300 * DAY;
    let planned = plan::plan(Some(&content), at(late)).unwrap();
    assert_eq!(planned.change, Some("the next root is trusted"));
    assert_eq!((planned.content.roots.len(), &planned.content.chain), (2, &content.chain));
    let soon = plan::plan(Some(&planned.content), at(late + TRUSTED_BEFORE - 1)).unwrap();
    assert_eq!(soon.change, None);
    let signs = plan::plan(Some(&planned.content), at(late + TRUSTED_BEFORE)).unwrap();
    assert_eq!(signs.change, Some("the next root signs"));
    assert_eq!((signs.content.roots.len(), &signs.content.roots[1..]), (2, &signs.content.chain[..]));
    // A user's own roots beside it stay through all of it.
    let with_other = Content { roots: vec![content.roots[0].clone(), fixture!("root.crt")], ..content.clone() };
    let planned = plan::plan(Some(&with_other), at(late)).unwrap().content;
    assert!(planned.roots.contains(&fixture!("root.crt")) && planned.roots.len() == 3);
    let ended = plan::plan(Some(&with_other), at(START + 3651 * DAY)).unwrap();
    assert_eq!(
        ended.content.roots.iter().filter(|root| is_own(root)).count(),
        1,
        "a root that has ended is followed by a new one"
    );
    assert!(ended.content.roots.contains(&fixture!("root.crt")) && ended.change.is_some());
    // The next one was trusted already when the controller went, and nobody has to learn of another.
    let trusted = plan::plan(Some(&content), at(late)).unwrap().content;
    let back = plan::plan(Some(&trusted), at(START + 3651 * DAY)).unwrap();
    assert_eq!(back.change, Some("the next root signs: the one before has ended"));
    assert_eq!(Some(&back.content.chain[0]), trusted.next.as_ref().map(|next| &next.certificate));
    assert!(back.content.next.is_none() && back.content.roots == back.content.chain);
}
