//! What a suite plays on: a folder of its own outside the project, filled from `tests/suites/<name>`, and the binary.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::{env, fs, process};

use crate::fault::{Context as _, Fault};
use crate::workspace;

/// Dropping it removes the folder.
#[derive(Debug)]
pub(crate) struct Stage {
    folder: PathBuf,
    /// The `isthmus` binary.
    pub(crate) isthmus: PathBuf,
    /// Whether release builds are driven.
    pub(crate) release: bool,
}

impl Stage {
    /// Copies the YAML of `tests/suites/<name>`, if there is such a folder.
    pub(crate) fn new(name: &str, release: bool) -> Result<Self, Fault> {
        let folder = env::temp_dir().join(format!("isthmus-suite-{}-{name}", process::id()));
        let stage = Self { folder, isthmus: workspace::isthmus(release), release };
        fs::create_dir_all(stage.yaml()).context(|| format!("making the folder {}", stage.yaml().display()))?;
        let source = workspace::root().join("tests/suites").join(name);
        if !source.exists() {
            return Ok(stage);
        }
        for entry in fs::read_dir(&source).context(|| format!("reading the folder {}", source.display()))? {
            let file = entry.context(|| format!("reading the folder {}", source.display()))?.path();
            if let Some(name) = file.file_name().filter(|_| file.extension().is_some_and(|extension| extension == "yaml")) {
                fs::copy(&file, stage.yaml().join(name)).context(|| format!("copying {}", file.display()))?;
            }
        }
        Ok(stage)
    }

    /// The folder that `isthmus run` follows.
    pub(crate) fn yaml(&self) -> PathBuf {
        self.folder.join("yaml")
    }

    /// A file beside that folder: a log, a download.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Puts a file into the YAML folder as a careful editor does: written beside it, then renamed.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<(), Fault> {
        let whole = self.file("half-written");
        fs::write(&whole, text).context(|| format!("writing {}", whole.display()))?;
        let target = self.yaml().join(name);
        fs::rename(&whole, &target).context(|| format!("renaming to {}", target.display()))
    }

    /// Writes a file beside that folder.
    pub(crate) fn keep(&self, file: &Path, bytes: &[u8]) -> Result<(), Fault> {
        fs::write(file, bytes).context(|| format!("writing {}", file.display()))
    }

    /// Takes a file out of the YAML folder.
    pub(crate) fn remove(&self, name: &str) -> Result<(), Fault> {
        let target = self.yaml().join(name);
        fs::remove_file(&target).context(|| format!("removing {}", target.display()))
    }
}

/// EndpointSlices of a Service in the namespace `default`, whose port is named `main`: one for each endpoint, since each has a port of its own.
pub(crate) fn endpoint_slices(service: &str, endpoints: &[SocketAddr]) -> String {
    endpoints.iter().map(|endpoint| endpoint_slice(service, "main", "TCP", *endpoint)).collect::<Vec<_>>().join("---\n")
}

/// The EndpointSlice of one endpoint, for a port of this name and protocol.
pub(crate) fn endpoint_slice(service: &str, port: &str, protocol: &str, endpoint: SocketAddr) -> String {
    format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {service}-{port}-{number}\n  labels:\n    kubernetes.io/service-name: {service}\n\
         addressType: IPv4\nendpoints:\n  - addresses: [{address}]\nports:\n  - name: {port}\n    protocol: {protocol}\n    port: {number}\n",
        address = endpoint.ip(),
        number = endpoint.port(),
    )
}

impl Drop for Stage {
    fn drop(&mut self) {
        // A folder that stays behind in the system's temporary folder harms nobody.
        let _left = fs::remove_dir_all(&self.folder);
    }
}
