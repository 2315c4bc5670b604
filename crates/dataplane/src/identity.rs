//! Who we are in the mesh, whom of it we meet at which address, and whose certificates we take.
//!
//! A [`Membership`] is made from a snapshot and from our own certificate. What is made from both and from nothing else is its [`Trust`]:
//! another certificate, or other authorities, make another one, and with it new configurations of TLS and new pools of connections. So
//! nothing that was agreed on with the one is used with the other, and what is under way ends as it began.

mod verifier;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use isthmus_routing::{Bundle, Certificate, Identity, Mesh, Snapshot, TrustDomain, Workloads};
use rustls::ServerConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, ServerConnection};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{ASN1Time, FromDer as _, X509Certificate};

use crate::tls::client::certificates_of;
use crate::upstream::{Authorities, ClientCertificate, PROVIDER, Unusable, UpstreamTls};
use verifier::{OfClient, OfServer, Verifier};

pub(crate) use verifier::reason;

/// What to do where the certificate of a workload is refused, behind why that is.
pub(crate) const ADVICE: &str = ". Nothing was sent. If it is another workload's, the address was a moment ago the one's that was called: the \
                                 controller tells within seconds, unless this log says that it is away. If it has expired or is not valid \
                                 yet, look at the clocks of both nodes (NTP) and at the log of the sidecar there. If no authority of the mesh \
                                 has signed it, see docs/mesh-identity.md";

/// What a client of the mesh names by ALPN that only wants to see the certificate: the workload hears nothing of it.
pub(crate) const PROBE: &[u8] = b"isthmus-identity";

/// Our place in the mesh. Every sidecar knows everybody in it, so little is kept of those who are not called.
#[derive(Debug)]
pub(crate) struct Membership {
    trust: Arc<Trust>,
    /// In the order of their identities.
    members: Vec<(Arc<Member>, Arc<Workloads>)>,
    /// Of our own pod: nobody there is called by TLS.
    own_addresses: Vec<IpAddr>,
    places: HashMap<IpAddr, Arc<Member>, foldhash::fast::RandomState>,
}

/// Somebody in the mesh.
#[derive(Debug)]
struct Member {
    identity: Identity,
    /// Made when one of its pods is called for the first time.
    tls: OnceLock<Arc<UpstreamTls>>,
}

/// Whom we believe, and what we show.
pub(crate) struct Trust {
    mesh: Arc<Mesh>,
    certificate: Option<Arc<Certificate>>,
    authorities: Authorities,
    verifier: Arc<Verifier>,
    own: Option<Own>,
}

/// Ourselves.
#[derive(Debug)]
pub(crate) struct Own {
    /// Who we are, by our certificate.
    pub(crate) identity: Identity,
    /// The server name by which we are called.
    pub(crate) server_name: String,
    /// When our certificate does, in seconds since 1970.
    ends: u64,
    client: Arc<ClientCertificate>,
    server: Arc<ServerConfig>,
}

impl Membership {
    /// Keeps what is unchanged. None: there is no mesh.
    pub(crate) fn compile(
        snapshot: &Snapshot,
        certificate: Option<Arc<Certificate>>,
        own_addresses: &[IpAddr],
        previous: Option<&Arc<Self>>,
    ) -> Option<Arc<Self>> {
        // Workloads without authorities, because the controller cannot read them: those of before hold. If there were none, nobody's
        // certificate is valid, which is no leave to do without.
        let nobody = || Arc::new(Mesh { trust_domain: TrustDomain::default(), authorities: String::new() });
        let before = || previous.map_or_else(nobody, |previous| previous.trust.mesh.clone());
        let mesh = snapshot.mesh.clone().or_else(|| (!snapshot.workloads.is_empty()).then(before))?;
        let trust = match previous.map(|previous| &previous.trust) {
            Some(trust) if trust.certificate == certificate && are_alike(&trust.mesh, &mesh) => trust.clone(),
            _ => Arc::new(Trust::new(mesh, certificate)),
        };
        let previous = previous.filter(|previous| Arc::ptr_eq(&previous.trust, &trust));
        if let Some(previous) = previous
            && previous.has(&snapshot.workloads)
            && previous.own_addresses == own_addresses
        {
            return Some(previous.clone());
        }
        let member = |identity: &Identity| {
            let known = previous.and_then(|previous| previous.member(identity).map(|(member, _)| member.clone()));
            known.unwrap_or_else(|| Arc::new(Member { identity: identity.clone(), tls: OnceLock::new() }))
        };
        let members: Vec<_> =
            snapshot.workloads.iter().map(|(identity, workloads)| (member(identity), workloads.clone())).collect();
        let count = snapshot.workloads.values().map(|workloads| workloads.pods.len()).sum();
        let mut places = HashMap::with_capacity_and_hasher(count, foldhash::fast::RandomState::default());
        for (member, workloads) in &members {
            places.extend(workloads.pods.keys().map(|ip| (*ip, member.clone())));
        }
        Some(Arc::new(Self { own_addresses: own_addresses.to_vec(), trust, members, places }))
    }

    fn has(&self, workloads: &BTreeMap<Identity, Arc<Workloads>>) -> bool {
        let theirs = workloads.iter();
        let ours = self.members.iter().map(|(member, workloads)| (&member.identity, workloads));
        ours.eq(theirs)
    }

    fn member(&self, identity: &Identity) -> Option<&(Arc<Member>, Arc<Workloads>)> {
        let place = self.members.binary_search_by(|(member, _)| member.identity.cmp(identity));
        place.ok().map(|place| &self.members[place])
    }

    /// How a connection to this address is encrypted; none: nobody is known there who takes that, or it does not leave our own pod.
    pub(crate) fn upstream(&self, address: &SocketAddr) -> Option<&Arc<UpstreamTls>> {
        let ip = address.ip();
        let member = self.places.get(&ip).filter(|_| !self.own_addresses.contains(&ip))?;
        let (_, workloads) = self.member(&member.identity)?;
        let is_plain = workloads.pods.get(&ip).is_some_and(|pod| pod.is_plain(address.port()));
        (!is_plain).then(|| member.tls.get_or_init(|| UpstreamTls::of_identity(&self.trust, &member.identity)))
    }

    /// Who is at this address.
    pub(crate) fn identity_at(&self, ip: &IpAddr) -> Option<&Identity> {
        self.places.get(ip).map(|member| &member.identity)
    }

    /// Within which names mean something.
    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        &self.trust.mesh.trust_domain
    }

    /// Ourselves; none: we have no certificate.
    pub(crate) fn own(&self) -> Option<&Own> {
        self.trust.own.as_ref()
    }

    /// When our certificate ends, in seconds since 1970; 0: we have none.
    pub(crate) fn certificate_ends(&self) -> u64 {
        self.own().map_or(0, |own| own.ends)
    }

    /// Who the client of a connection is, of which the handshake was one of [`Own::server`]'s.
    pub(crate) fn client_of(&self, connection: &ServerConnection) -> Option<Identity> {
        let leaf = connection.peer_certificates()?.first()?;
        self.trust.verifier.identify(leaf).ok()
    }
}

/// Whether the same certificates are taken. Which authority comes first says who signs, and changes nothing of that.
fn are_alike(one: &Mesh, other: &Mesh) -> bool {
    let authorities = |mesh: &Mesh| -> BTreeSet<_> {
        let bundle = Bundle { certificates: mesh.authorities.clone() };
        certificates_of(&bundle).map(|der| der.to_vec()).collect()
    };
    one == other || one.trust_domain == other.trust_domain && authorities(one) == authorities(other)
}

impl Trust {
    fn new(mesh: Arc<Mesh>, certificate: Option<Arc<Certificate>>) -> Self {
        let bundle = Bundle { certificates: mesh.authorities.clone() };
        let authorities = Authorities::of([&bundle].into_iter());
        if authorities.store.is_empty() {
            tracing::warn!(
                "the mesh has no authority whose certificate can be read, so no workload's certificate is valid: put `ca.crt` of the Secret \
                 isthmus-mesh-ca right, see docs/mesh-identity.md"
            );
        }
        let algorithms = PROVIDER.signature_verification_algorithms;
        let verifier = Arc::new(Verifier::new(authorities.store.clone(), mesh.trust_domain.clone(), algorithms));
        let own = certificate.as_ref().map(|certificate| Own::new(certificate, &verifier, &mesh.trust_domain));
        let own = match own.transpose() {
            Ok(Some(own)) => {
                tracing::info!(identity = %own.identity, "this is who we are in the mesh");
                Some(own)
            }
            Ok(None) => {
                tracing::warn!(
                    "there is no certificate of our own, so no workload of the mesh is called and none can call: what this log says of the \
                     controller and of the certificate is why"
                );
                None
            }
            Err(fault) => {
                tracing::error!(
                    "our own certificate cannot be used, so no workload of the mesh is called and none can call: {fault}; look at the Secret \
                     isthmus-mesh-ca and at the controller's trust domain"
                );
                None
            }
        };
        Self { mesh, certificate, authorities, verifier, own }
    }

    /// The server name of a workload.
    pub(crate) fn server_name(&self, identity: &Identity) -> String {
        identity.dns_name(&self.mesh.trust_domain)
    }

    /// What the certificate of a server has to fulfil that is to be this workload.
    pub(crate) fn expecting(&self, identity: &Identity) -> Arc<dyn ServerCertVerifier> {
        Arc::new(OfServer::new(self.verifier.clone(), identity.clone()))
    }

    /// The roots, as Pingora takes them.
    pub(crate) fn authorities(&self) -> &Authorities {
        &self.authorities
    }

    /// What we show to workloads; none: nothing, so there is no connection to any.
    pub(crate) fn shown(&self) -> Option<&Arc<ClientCertificate>> {
        self.own.as_ref().map(|own| &own.client)
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust").field("mesh", &self.mesh).field("own", &self.own).finish_non_exhaustive()
    }
}

/// Why our own certificate is none.
#[derive(Debug, thiserror::Error)]
enum NotOurs {
    #[error("{0}")]
    Unusable(#[from] Unusable),
    #[error("{0}")]
    NoIdentity(String),
}

impl Own {
    fn new(certificate: &Arc<Certificate>, verifier: &Arc<Verifier>, domain: &TrustDomain) -> Result<Self, NotOurs> {
        let client = ClientCertificate::own(certificate)?;
        let leaf = client.certified_key().cert.first().cloned().unwrap_or_else(|| CertificateDer::from(Vec::new()));
        let identity = verifier.identify(&leaf).map_err(|fault| NotOurs::NoIdentity(reason(&fault)))?;
        let server = Arc::new(accepting(PROVIDER.clone(), verifier, &client));
        let (begins, ends) = life_of(&leaf);
        let early = begins.saturating_sub(UnixTime::now().as_secs());
        if early > 0 {
            tracing::warn!(
                "our own certificate is valid in {early} s only: the clock of this node is behind that of the controller; set it (NTP). Until \
                 then what other workloads show may be refused here"
            );
        }
        Ok(Self { server_name: identity.dns_name(domain), identity, ends, client: Arc::new(client), server })
    }

    /// What connections of other workloads are accepted with. Each handshake is a full one: a session that is resumed would be one of a
    /// certificate that may have expired meanwhile.
    pub(crate) fn server(&self) -> &Arc<ServerConfig> {
        &self.server
    }
}

/// From when until when a certificate is valid, in seconds since 1970.
fn life_of(leaf: &CertificateDer<'_>) -> (u64, u64) {
    let validity = X509Certificate::from_der(leaf).ok().map(|(_, leaf)| leaf.validity().clone());
    let seconds = |time: ASN1Time| u64::try_from(time.timestamp()).unwrap_or_default();
    validity.map_or((0, 0), |validity| (seconds(validity.not_before), seconds(validity.not_after)))
}

fn accepting(provider: Arc<CryptoProvider>, verifier: &Arc<Verifier>, own: &ClientCertificate) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("ring has suites for TLS 1.3")
        .with_client_cert_verifier(Arc::new(OfClient::new(verifier.clone())))
        .with_cert_resolver(own.as_server());
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // The client's choice, of which it names one: bytes are passed on to an application that speaks the same without TLS. Who only wants to
    // look names the others as well, for servers that do not know the first.
    config.alpn_protocols = vec![PROBE.to_vec(), b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

#[cfg(test)]
pub(crate) mod tests;
