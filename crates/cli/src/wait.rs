//! `isthmus wait`: waits until a cluster says that an object of the Gateway API is served.
//!
//! `kubectl wait` sees only `status.conditions`; a route has its conditions in `status.parents[]`, one set for each parent.

mod judge;

use std::process::ExitCode;
use std::time::Duration;

use isthmus_api::Kind;
use kube::api::{ApiResource, DynamicObject};
use kube::runtime::wait::{Condition, await_condition};
use kube::{Api, Client, Config};

use crate::args::Wait;
use judge::{Outcome, judge};

/// Everything holds.
const MET: u8 = 0;
/// It does not, and time is up.
const NOT_MET: u8 = 1;
/// It could not be tried.
const FAILED: u8 = 2;

/// Waits, and says what it has found.
pub fn run(args: &Wait) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&format!("no thread can be had: {error}")),
    };
    runtime.block_on(wait(args)).unwrap_or_else(|fault| failed(&fault))
}

fn failed(fault: &str) -> ExitCode {
    eprintln!("isthmus: {fault}");
    ExitCode::from(FAILED)
}

async fn wait(args: &Wait) -> Result<ExitCode, String> {
    let kind = args.object.kind;
    let config = Config::infer().await.map_err(|error| format!("no cluster: {error}"))?;
    let namespace = args.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
    let client = Client::try_from(config).map_err(|error| format!("no cluster: {error}"))?;
    let resource = resource(kind);
    let api: Api<DynamicObject> =
        if kind.is_namespaced() { Api::namespaced_with(client, &namespace, &resource) } else { Api::all_with(client, &resource) };
    let shown = format!("{}.{}/{}", kind.plural(), kind.group(), args.object.name);
    let met = await_condition(api.clone(), &args.object.name, IsMet);
    match tokio::time::timeout(args.timeout, met).await {
        Ok(Ok(_)) => {
            println!("{shown} is served");
            return Ok(ExitCode::from(MET));
        }
        Ok(Err(error)) => return Err(format!("{shown} cannot be watched: {error}")),
        Err(_) => {}
    }
    // Of the last state, because nobody wants to read every one on the way.
    let last = tokio::time::timeout(LAST, api.get_opt(&args.object.name)).await;
    let found =
        last.map_err(|_| format!("{shown}: the API server does not answer"))?.map_err(|error| format!("{shown}: {error}"))?;
    let place = if kind.is_namespaced() { format!(" in namespace {namespace}") } else { String::new() };
    match found.as_ref().map(judge) {
        None => eprintln!("{shown} does not exist{place}"),
        Some(Outcome::Met) => {
            println!("{shown} is served");
            return Ok(ExitCode::from(MET));
        }
        Some(Outcome::NotYet(reasons)) => {
            eprintln!("{shown} is not served after {} s:", args.timeout.as_secs_f32());
            reasons.iter().for_each(|reason| eprintln!("  {reason}"));
        }
    }
    Ok(ExitCode::from(NOT_MET))
}

/// How long the last look may take.
const LAST: Duration = Duration::from_secs(5);

fn resource(kind: Kind) -> ApiResource {
    let version = kind.versions().first().copied().unwrap_or("v1").to_owned();
    ApiResource {
        group: kind.group().to_owned(),
        api_version: kind.api_version(),
        version,
        kind: kind.as_str().to_owned(),
        plural: kind.plural().to_owned(),
    }
}

struct IsMet;

impl Condition<DynamicObject> for IsMet {
    fn matches_object(&self, object: Option<&DynamicObject>) -> bool {
        object.is_some_and(|object| matches!(judge(object), Outcome::Met))
    }
}
