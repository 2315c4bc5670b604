//! The three images that upstream's manifests name, made here under upstream's own names.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rcgen::{CertificateParams, KeyPair};

use crate::cluster::image;
use crate::conformance::sources;
use crate::fault::{Context as _, Fault};
use crate::{go, process, workspace};

/// The same program under both: v0.2.0 is not served by the module proxy, and the tests read nothing that is new in it.
const ECHO_BASIC: [&str; 2] =
    ["registry.k8s.io/gateway-api/conformance/echo-basic:v0.1.0", "registry.k8s.io/gateway-api/conformance/echo-basic:v0.2.0"];
const ECHO_ADVANCED: &str = "registry.k8s.io/gateway-api/conformance/echo-advanced:v0.1.0";

/// As in upstream's images, which are built on distroless' nonroot.
const USER: &str = "65532:65532";

/// Builds what is not in the cache; returns the archives.
pub(super) fn all() -> Result<Vec<PathBuf>, Fault> {
    let basic = echo_basic()?;
    let mut archives = Vec::new();
    for name in ECHO_BASIC {
        archives.push(image::build(name, &[(basic.clone(), "echo-basic", 0o755)], &["/echo-basic"], USER, &[])?);
    }
    archives.push(echo_advanced()?);
    Ok(archives)
}

fn echo_basic() -> Result<PathBuf, Fault> {
    let module = workspace::root().join("conformance/suite");
    let target = sources::folder("echo-basic", &module)?.join("echo-basic");
    build(&module, "sigs.k8s.io/gateway-api-conformance-images/echo-basic", &target)?;
    Ok(target)
}

/// One program under three names: as `client` the suite runs it in a pod, as `load` our own tests do.
fn echo_advanced() -> Result<PathBuf, Fault> {
    let module = workspace::root().join("conformance/echo-advanced");
    let folder = sources::folder("echo-advanced", &module)?;
    let target = folder.join("echo-advanced");
    if !target.exists() {
        // What upstream's parser does not understand must not become an image.
        eprintln!("testing echo-advanced against upstream's parser");
        process::capture(go::in_module(&module)?.args(["test", "./..."]))?;
    }
    build(&module, ".", &target)?;
    let (certificate, key) = certificate(&folder)?;
    let files = [
        (target.clone(), "usr/local/bin/server", 0o755),
        (target.clone(), "usr/local/bin/client", 0o755),
        (target, "usr/local/bin/load", 0o755),
        (certificate, "cert.crt", 0o644),
        (key, "cert.key", 0o644),
    ];
    image::build(ECHO_ADVANCED, &files, &["/usr/local/bin/server"], USER, &[("PATH", "/usr/local/bin")])
}

/// Under another name first: whoever is killed half way leaves no half program.
fn build(module: &Path, package: &str, target: &Path) -> Result<(), Fault> {
    if target.exists() {
        return Ok(());
    }
    eprintln!("building {}", target.display());
    let half = target.with_extension("half");
    process::capture(command(module)?.arg("-o").arg(&half).arg(package))?;
    fs::rename(&half, target).context(|| format!("renaming to {}", target.display()))
}

/// Static and without what debuggers want.
fn command(module: &Path) -> Result<Command, Fault> {
    let mut command = go::in_module(module)?;
    command.env("CGO_ENABLED", "0").args(["build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w"]);
    Ok(command)
}

/// Self-signed: no secret, so anybody in the image may read the key. Made once, so that the image stays the same.
fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf), Fault> {
    let (certificate, key) = (folder.join("cert.crt"), folder.join("cert.key"));
    if !(certificate.exists() && key.exists()) {
        let fault = |source: rcgen::Error| Fault::said(format!("making a certificate for echo-advanced: {source}"));
        let pair = KeyPair::generate().map_err(fault)?;
        let names = ["echo", "echo-v1", "echo-v2"].map(str::to_owned).to_vec();
        let signed = CertificateParams::new(names).and_then(|params| params.self_signed(&pair)).map_err(fault)?;
        for (path, pem) in [(&key, pair.serialize_pem()), (&certificate, signed.pem())] {
            fs::write(path, pem).context(|| format!("writing {}", path.display()))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).context(|| format!("opening {}", path.display()))?;
        }
    }
    Ok((certificate, key))
}
