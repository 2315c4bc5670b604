//! The controller in process against the scripted API server: whatever goes wrong on the way, the end is the same.

mod certificates;
mod crashes;
mod disturbed;
mod leaders;
mod log;
mod mesh;
mod missing;
mod pods;
mod scenario;
mod service;
mod sidecar;
mod stage;
mod statuses;
mod streams;
mod traffic;

use std::time::Duration;

use isthmus_tests::api_server::Select;

/// How long a controller may take for what it does within seconds when the machine is idle.
const PATIENCE: Duration = Duration::from_secs(60);

/// The writes that a controller makes for others, without its Leases.
fn writes() -> Select {
    Select::writes()
}
