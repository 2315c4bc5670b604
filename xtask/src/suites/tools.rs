//! Programs written elsewhere, at pinned versions, in the cache.

use std::path::PathBuf;
use std::process::Command;

use crate::fault::Fault;
use crate::{cache, go, process, workspace};

/// Gets every one of them.
pub(crate) fn all() -> Result<(), Fault> {
    for path in [h2spec()?, grpc_client()?, grpc_server()?, python()?, curl()?, h2load()?] {
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

/// A Python with the packages of `tests/suites/websocket/requirements.txt`.
pub(crate) fn python() -> Result<PathBuf, Fault> {
    if !process::exists("python3") || process::capture(Command::new("python3").args(["-c", "import venv, ensurepip"])).is_err() {
        process::packages(&["python3", "python3-venv"])?;
    }
    let folder = cache::root()?.join("python");
    let python = folder.join("bin/python");
    if !python.exists() {
        process::capture(Command::new("python3").args(["-m", "venv"]).arg(&folder))?;
    }
    let wanted = workspace::root().join("tests/suites/websocket/requirements.txt");
    process::capture(
        Command::new(&python).args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(wanted),
    )?;
    Ok(python)
}

/// Debian's.
pub(crate) fn curl() -> Result<PathBuf, Fault> {
    system("curl", "curl")
}

/// Debian's, of nghttp2.
pub(crate) fn h2load() -> Result<PathBuf, Fault> {
    system("h2load", "nghttp2-client")
}

fn system(program: &str, package: &str) -> Result<PathBuf, Fault> {
    if !process::exists(program) {
        process::packages(&[package])?;
    }
    Ok(PathBuf::from(program))
}
