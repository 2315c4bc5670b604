//! The certificate that signs, and what it signs.

use std::sync::Arc;

use isthmus_routing::{Identity, TrustDomain};
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber, SignatureAlgorithm, SubjectPublicKeyInfo,
};
use rustls::crypto::ring;
use rustls::{SignatureScheme, sign};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::extensions::ParsedExtension;

use super::content::{Content, is_root};
use super::sealed;
use crate::authority::{Malformed, Validity, der, holding, parsed, unix_lines, validity};

/// Certificates hold from before they are made, in seconds, for clocks that go behind.
pub(super) const BACKDATED: u64 = 600;

/// Signs.
pub(super) struct Issuer {
    domain: TrustDomain,
    key: Arc<dyn sign::SigningKey>,
    scheme: SignatureScheme,
    algorithm: &'static SignatureAlgorithm,
    /// The name of the certificate that signs, DER: byte for byte, as whoever follows the chain compares it.
    name: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// The certificates that a leaf is sent with, PEM: no roots, which nobody would believe because they were sent.
    above: String,
    /// When all of the chain holds.
    holds: Validity,
}

/// A certificate that was made.
#[derive(Debug)]
pub(super) struct Leaf {
    /// PEM, the leaf first.
    pub(super) chain: String,
    pub(super) serial: [u8; 16],
    /// Seconds since 1970.
    pub(super) ends: u64,
}

/// Why none was.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    #[error("the certificate that signs has ended: the Secret {} needs a new one", super::SECRET)]
    Ended,
    #[error("a certificate cannot be made: {0}")]
    Make(#[from] rcgen::Error),
    #[error("it cannot be signed: {0}")]
    Sign(#[from] rustls::Error),
    #[error("{0}")]
    Read(#[from] Malformed),
    #[error("no randomness can be had")]
    Random,
}

impl Issuer {
    /// # Errors
    /// When what it would sign were not taken by those who trust `ca.crt`: a leaf is made and looked at as they would.
    pub(super) fn new(content: &Content, domain: &TrustDomain, now: UnixTime) -> Result<Self, Malformed> {
        let key_error = |why: String| Malformed::Unreadable { entry: "tls.key", why };
        let key = PrivateKeyDer::from_pem_slice(content.key.as_bytes()).map_err(|error| key_error(error.to_string()))?;
        let key = ring::sign::any_supported_type(&key)
            .map_err(|_| key_error("it is none of RSA, ECDSA P-256 or P-384, and Ed25519".to_owned()))?;
        let (scheme, algorithm) = algorithm(&*key).ok_or_else(|| key_error("nothing can be signed with it".to_owned()))?;
        let signer = der("tls.crt", &content.chain[0])?;
        let signer = parsed("tls.crt", &signer)?;
        if key.public_key().is_none_or(|public| public.as_ref() != signer.public_key().raw) {
            return Err(Malformed::Mismatch("tls.key"));
        }
        let unfit = |what: &str| Err(Malformed::Unfit(what.to_owned()));
        if !signer.is_ca() {
            return unfit("the first certificate of tls.crt is not of an authority (no `CA:TRUE`)");
        }
        if signer.key_usage().ok().flatten().is_some_and(|usage| !usage.value.key_cert_sign()) {
            return unfit("the first certificate of tls.crt may not sign certificates (keyUsage)");
        }
        let key_id = signer.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let mut holds = Validity { from: 0, to: u64::MAX };
        let mut above = String::new();
        for certificate in &content.chain {
            let own = validity("tls.crt", certificate)?;
            holds = Validity { from: holds.from.max(own.from), to: holds.to.min(own.to) };
            let der = der("tls.crt", certificate)?;
            if !is_root(&parsed("tls.crt", &der)?) {
                above.push_str(certificate);
            }
        }
        let name = signer.subject().as_raw().to_vec();
        let issuer = Self { domain: domain.clone(), key, scheme, algorithm, name, key_id, above, holds };
        if let Some(why) = issuer.fault(&content.roots, now)? {
            return unfit(&format!("what tls.crt signs would not be taken by those who trust ca.crt: {why}"));
        }
        Ok(issuer)
    }

    /// A certificate of this identity for this key. It ends after `lifetime` seconds, but never after one of the chain above it.
    ///
    /// # Errors
    /// When one of the chain has ended, or the system has no randomness.
    pub(super) fn issue(
        &self,
        identity: &Identity,
        key: &SubjectPublicKeyInfo,
        lifetime: u64,
        now: UnixTime,
    ) -> Result<Leaf, IssueError> {
        let seconds = now.as_secs();
        let validity = Validity {
            from: (seconds.saturating_sub(BACKDATED)).max(self.holds.from),
            to: (seconds + lifetime).min(self.holds.to),
        };
        if validity.to <= seconds {
            return Err(IssueError::Ended);
        }
        self.make(identity, key, validity)
    }

    /// Until when it signs, in seconds since 1970.
    pub(super) fn ends(&self) -> u64 {
        self.holds.to
    }

    /// Roots with that first below which this issuer's leaves are; where several would do, the first of them.
    pub(super) fn ordered(&self, roots: &[String], now: UnixTime) -> Vec<String> {
        let mut roots = roots.to_vec();
        let is_its = |root: &String| matches!(self.fault(std::slice::from_ref(root), now), Ok(None));
        // There is one, or this issuer would not have come about.
        if roots.len() > 1
            && let Some(position) = roots.iter().position(is_its)
        {
            roots[..=position].rotate_right(1);
        }
        roots
    }

    /// Why a leaf of this issuer is not taken by those who trust these roots; none: it is. Whether certificates have ended is passed over.
    pub(super) fn fault(&self, roots: &[String], now: UnixTime) -> Result<Option<String>, Malformed> {
        let Validity { from, to } = self.holds;
        if from >= to {
            return Ok(Some("its chain never holds".to_owned()));
        }
        let seconds = now.as_secs().clamp(from, to - 1);
        let identity = Identity { namespace: "isthmus".to_owned(), account: "trial".to_owned() };
        let made = KeyPair::generate().map_err(IssueError::from).and_then(|key| {
            let key = SubjectPublicKeyInfo::from_der(&key.subject_public_key_info())?;
            self.make(&identity, &key, Validity { from: seconds, to })
        });
        let leaf = match made {
            Ok(leaf) => leaf,
            Err(error) => return Ok(Some(error.to_string())),
        };
        let roots = roots.iter().map(|root| der("ca.crt", root)).collect::<Result<Vec<_>, _>>()?;
        let time = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        Ok(verify(&leaf.chain, &roots, &identity.dns_name(&self.domain), time).err())
    }

    fn make(&self, identity: &Identity, key: &SubjectPublicKeyInfo, validity: Validity) -> Result<Leaf, IssueError> {
        let mut serial = [0; 16];
        ring::default_provider().secure_random.fill(&mut serial).map_err(|_| IssueError::Random)?;
        let mut params = holding(validity);
        params.subject_alt_names = vec![
            SanType::URI(identity.spiffe(&self.domain).try_into()?),
            SanType::DnsName(identity.dns_name(&self.domain).try_into()?),
        ];
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = self.key_id.is_some();
        let mut above = CertificateParams::default();
        above.key_identifier_method = KeyIdMethod::PreSpecified(self.key_id.clone().unwrap_or_default());
        let unsigned = params.signed_by(key, &rcgen::Issuer::from_params(&above, Unsigned(self.algorithm)))?;
        let signed = sealed::seal(unsigned.der(), &self.name, |body| self.sign(body))?;
        let leaf = sealed::pem(&signed);
        Ok(Leaf { chain: unix_lines(&format!("{leaf}{}", self.above)), serial, ends: validity.to })
    }

    fn sign(&self, body: &[u8]) -> Result<Vec<u8>, IssueError> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or_else(|| rustls::Error::General("no scheme".to_owned()))?;
        Ok(signer.sign(body)?)
    }
}

/// What a key signs with.
fn algorithm(key: &dyn sign::SigningKey) -> Option<(SignatureScheme, &'static SignatureAlgorithm)> {
    [
        (SignatureScheme::ECDSA_NISTP256_SHA256, &rcgen::PKCS_ECDSA_P256_SHA256),
        (SignatureScheme::ECDSA_NISTP384_SHA384, &rcgen::PKCS_ECDSA_P384_SHA384),
        (SignatureScheme::ED25519, &rcgen::PKCS_ED25519),
        (SignatureScheme::RSA_PKCS1_SHA256, &rcgen::PKCS_RSA_SHA256),
    ]
    .into_iter()
    .find(|(scheme, _)| key.choose_scheme(&[*scheme]).is_some())
}

/// Looks at a leaf as a workload does, as a client and as a server.
pub(super) fn verify(chain: &str, roots: &[CertificateDer<'_>], name: &str, now: UnixTime) -> Result<(), String> {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    let (leaf, between) = chain.split_first().ok_or("no certificate")?;
    let text = |error: webpki::Error| format!("{error:?}");
    let anchors: Vec<_> = roots.iter().map(webpki::anchor_from_trusted_cert).collect::<Result<_, _>>().map_err(text)?;
    let leaf = webpki::EndEntityCert::try_from(leaf).map_err(text)?;
    for usage in [webpki::KeyUsage::server_auth(), webpki::KeyUsage::client_auth()] {
        leaf.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, between, now, usage, None, None).map_err(text)?;
    }
    let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
    leaf.verify_is_valid_for_subject_name(&name).map_err(text)
}

/// Stands for the key while a certificate is put together.
struct Unsigned(&'static SignatureAlgorithm);

impl PublicKeyData for Unsigned {
    fn der_bytes(&self) -> &[u8] {
        &[]
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.0
    }
}

impl rcgen::SigningKey for Unsigned {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Vec::new())
    }
}

/// Never shows the key.
impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer").field("holds", &self.holds).finish_non_exhaustive()
    }
}
