//! The cluster's own authority, a certificate for each program, and the kubeconfig files that hold them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::cluster::place;
use crate::fault::{Context as _, Fault};

/// Name of the file, group (`O`), name (`CN`). Kubernetes' own roles are bound to these users and groups.
const CLIENTS: [(&str, &str, &str); 5] = [
    ("admin", "system:masters", "admin"),
    ("kube-controller-manager", "", "system:kube-controller-manager"),
    ("kube-scheduler", "", "system:kube-scheduler"),
    ("kube-proxy", "", "system:kube-proxy"),
    ("kubelet", "system:nodes", "system:node:isthmus"),
];

/// The same with the names and addresses that it is asked by; each is a client's too.
const SERVERS: [(&str, &str, &str, &[&str]); 3] = [
    ("etcd", "", "etcd", &[place::NODE_IP]),
    (
        "kube-apiserver",
        // What the API server shows to the kubelet.
        "system:masters",
        "kube-apiserver",
        &[
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            place::API_IP,
            place::NODE_IP,
        ],
    ),
    ("kubelet-server", "", "system:node:isthmus", &[place::NODE, place::NODE_IP]),
];

/// Writes `pki/*.crt`, `pki/*.key` and `*.kubeconfig`.
pub(super) fn write() -> Result<(), Fault> {
    let authority = Authority::new()?;
    for (file, group, name) in CLIENTS {
        let (certificate, key) = authority.issue(group, name, &[])?;
        secret(&format!("{file}.kubeconfig"), &kubeconfig(&authority.pem, &certificate, &key))?;
    }
    for (file, group, name, names) in SERVERS {
        let (certificate, key) = authority.issue(group, name, names)?;
        place::write(&format!("pki/{file}.crt"), &certificate)?;
        secret(&format!("pki/{file}.key"), &key)?;
    }
    place::write("pki/ca.crt", &authority.pem)?;
    secret("pki/ca.key", &authority.issuer.key().serialize_pem())?;
    // Signs service accounts' tokens.
    let tokens = KeyPair::generate().map_err(fault)?;
    secret("pki/tokens.key", &tokens.serialize_pem())?;
    place::write("pki/tokens.pub", &tokens.public_key_pem())?;
    Ok(())
}

/// For people and tests.
pub(super) fn kubeconfig_path() -> PathBuf {
    place::of("admin.kubeconfig")
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self, Fault> {
        let mut params = CertificateParams::new(Vec::new()).map_err(fault)?;
        params.distinguished_name.push(DnType::CommonName, "isthmus-cluster");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().map_err(fault)?;
        let pem = params.self_signed(&key).map_err(fault)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// Certificate and key as PEM.
    fn issue(&self, group: &str, name: &str, names: &[&str]) -> Result<(String, String), Fault> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(fault)?;
        params.distinguished_name.push(DnType::CommonName, name);
        if !group.is_empty() {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().map_err(fault)?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(fault)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }
}

fn kubeconfig(authority: &str, certificate: &str, key: &str) -> String {
    let [authority, certificate, key] = [authority, certificate, key].map(|pem| BASE64_STANDARD.encode(pem));
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: isthmus\ncontexts:\n- name: isthmus\n  context: {{cluster: isthmus, user: isthmus}}\n\
         clusters:\n- name: isthmus\n  cluster:\n    server: https://{}:6443\n    certificate-authority-data: {authority}\n\
         users:\n- name: isthmus\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n",
        place::NODE_IP,
    )
}

/// Writes a file that only its owner reads.
fn secret(name: &str, text: &str) -> Result<(), Fault> {
    let path = place::write(name, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).context(|| format!("protecting {}", path.display()))
}

fn fault(source: impl std::fmt::Display) -> Fault {
    Fault::said(format!("making a certificate: {source}"))
}
