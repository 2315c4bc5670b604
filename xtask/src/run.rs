//! `./dev run FOLDER`: build, then become `isthmus run`.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use crate::fault::{Context as _, Fault};
use crate::{process, workspace};

/// What a first build costs: 5 minutes of one core in the dev profile, 14 in the release profile.
const DEV_CORE_MINUTES: usize = 5;
const RELEASE_CORE_MINUTES: usize = 14;

/// Ports 80 and 443 need root, 8080 and 8443 do not.
const PORT_OFFSET: &str = "8000";

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The folder of YAML.
    folder: PathBuf,
    /// Build for speed instead of for a quick start.
    #[arg(long)]
    release: bool,
    /// Flags of `isthmus run`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    flags: Vec<String>,
}

/// Only returns if it fails.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Fault> {
    let folder = workspace::caller().join(&arguments.folder);
    let standard_input = arguments.folder.as_os_str() == "-";
    if !standard_input && !folder.exists() {
        return Err(Fault::said(format!("there is no folder {}; examples/shop is one to start with", folder.display())));
    }
    build(arguments.release)?;
    let mut command = Command::new(workspace::isthmus(arguments.release));
    command.current_dir(workspace::caller()).arg("run").arg(&arguments.folder);
    if !arguments.flags.iter().any(|flag| flag.starts_with("--port-offset")) {
        command.args(["--port-offset", PORT_OFFSET]);
    }
    if !arguments.flags.iter().any(|flag| flag == "--echo") {
        command.arg("--echo");
    }
    Err(command.args(&arguments.flags).exec()).context(|| "starting isthmus".to_owned())
}

fn build(release: bool) -> Result<(), Fault> {
    if !workspace::isthmus(release).exists() {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let work = if release { RELEASE_CORE_MINUTES } else { DEV_CORE_MINUTES };
        let minutes = work.div_ceil(cores).max(1);
        eprintln!("The first build takes about {minutes} min on {cores} cores; the next ones take seconds.");
    }
    let profile: &[&str] = if release { &["--release"] } else { &[] };
    // With the whole workspace's features, so that the tests find most of it built, and this the tool.
    process::run(workspace::cargo(&["build", "--workspace", "--bin", "isthmus"]).args(profile))
}
