//! `isthmus-controller`: hands the command line over to the library.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser;
use isthmus_api::parameters::GatewayParametersSpec;
use isthmus_controller::args::Args;
use isthmus_controller::{Election, Settings, ca, inject, provision};
use isthmus_routing::snapshot::{ModelVersion, Models};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// The system's allocator makes threads wait for each other, and keeps what a large translation has freed.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let filter = EnvFilter::try_from_env("ISTHMUS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no threads can be had: {error}")),
    };
    match runtime.block_on(run(args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => failed(&fault),
    }
}

fn failed(fault: &str) -> ExitCode {
    tracing::error!("{fault}");
    ExitCode::FAILURE
}

async fn run(args: Args) -> Result<(), String> {
    let wait = |kind, name: &str| signal(kind).map_err(|error| format!("{name} cannot be waited for: {error}"));
    let (mut terminate, mut interrupt) = (wait(SignalKind::terminate(), "SIGTERM")?, wait(SignalKind::interrupt(), "SIGINT")?);
    let client = kube::Client::try_default()
        .await
        .map_err(|error| format!("there is no way to the API server: {error}; run this in a pod, or set KUBECONFIG"))?;
    let settings = settings(args).await?;
    let shutdown = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("ending");
    };
    isthmus_controller::run(client, settings, shutdown).await.map_err(|error| error.to_string())
}

async fn settings(args: Args) -> Result<Settings, String> {
    let parameters = match &args.parameters {
        None => GatewayParametersSpec::default(),
        Some(path) => {
            let text = fs::read(path).map_err(|error| format!("--parameters {}: {error}", path.display()))?;
            serde_json::from_slice(&text).map_err(|error| format!("--parameters {}: {error}", path.display()))?
        }
    };
    let push = listen(args.push).await?;
    let port = push.local_addr().map_or(args.push.port(), |address| address.port());
    let controller = format!("isthmus-controller.{}.svc:{port}", args.namespace);
    let injection = match args.inject.sidecar(&controller) {
        None => None,
        Some(sidecar) => Some(inject::Settings { listener: listen(args.inject.webhook).await?, sidecar }),
    };
    Ok(Settings {
        push,
        push_address: SocketAddr::new(args.ip, port),
        admin: Some(listen(args.admin).await?),
        provision: provision::Settings {
            image: args.gateway_image,
            image_pull_policy: args.gateway_image_pull_policy,
            image_pull_secrets: args.gateway_image_pull_secret,
            controller,
        },
        injection,
        namespace: args.namespace,
        name: args.name,
        watch_namespaces: args.watch_namespace.into_iter().collect::<BTreeSet<_>>(),
        parameters,
        mesh: args.mesh.then(|| ca::Settings {
            trust_domain: args.trust_domain,
            lifetime: args.mesh_certificate_lifetime,
            mtls: args.mtls.into(),
        }),
        models: args.model.map_or_else(Models::default, |newest| Models { newest: ModelVersion(newest), ..Models::default() }),
        election: Election::default(),
    })
}

/// On every address; where the system has no IPv6, on every IPv4 address.
async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let fallback = SocketAddr::from(([0, 0, 0, 0], address.port()));
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) => {
            let is_wildcard = address.ip().is_unspecified();
            let other = if is_wildcard { TcpListener::bind(fallback).await.ok() } else { None };
            other.ok_or_else(|| format!("{address} cannot be listened on: {error}"))
        }
    }
}
