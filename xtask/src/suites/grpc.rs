//! The gRPC project's interoperability client against its server, through the gateway.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::fault::Fault;
use crate::process::{self, Running};
use crate::suites::certificate::Authority;
use crate::suites::instance::{self, Instance};
use crate::suites::stage::{Stage, endpoint_slices};
use crate::suites::{Outcome, tools};

/// `pick_first_unary` and the `orca` cases are left out: they fail without a gateway too.
const CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

pub(super) fn run(stage: &Stage) -> Result<Outcome, Fault> {
    let (client, server) = (tools::grpc_client()?, tools::grpc_server()?);
    let authority = Authority::new()?;
    let roots = stage.file("authority.pem");
    stage.keep(&roots, authority.pem().as_bytes())?;
    stage.write("certificate.yaml", &authority.issue("edge", &["edge.example"])?.secret)?;
    let backend: SocketAddr = ([127, 0, 0, 1], instance::free_port()?).into();
    let mut server = Running::start(
        "the interoperability server",
        Command::new(server).arg(format!("--port={}", backend.port())),
        &stage.file("server.log"),
    )?;
    server.wait_until(Duration::from_secs(10), || TcpStream::connect(backend).is_ok())?;
    stage.write("endpoints.yaml", &endpoint_slices("interop", &[backend]))?;
    let gateway = Instance::start(stage, &[80, 443], &[])?;

    let tls = [
        "--use_tls=true".to_owned(),
        "--use_test_ca=true".to_owned(),
        format!("--ca_file={}", roots.display()),
        "--server_host_override=edge.example".to_owned(),
    ];
    let mut outcome = Outcome::default();
    for (name, port, flags) in [("h2c", 80, &["--use_tls=false".to_owned()][..]), ("https", 443, &tls[..])] {
        for case in CASES {
            let mut command = Command::new("timeout");
            command.arg("60").arg(&client).args(flags).arg("--server_host=127.0.0.1");
            command.args([format!("--server_port={}", gateway.at(port).port()), format!("--test_case={case}")]);
            outcome.count(&format!("{name} {case}"), process::capture(&mut command).map(drop).map_err(|fault| fault.to_string()));
        }
    }
    Ok(outcome)
}
