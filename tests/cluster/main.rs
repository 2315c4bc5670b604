//! Tests on a real cluster: its API server, its kubelet, and the controller as the chart installs it. One binary, because linking is slow.
//!
//! Without `ISTHMUS_CLUSTER_KUBECONFIG` it says so and ends well: `./dev test --all` and `cargo xtask cluster test` set it. Each test has
//! namespaces of its own. Tests that disturb the controller run one after the other when all others have ended.

#![forbid(unsafe_code)]

mod addresses;
mod certificates;
mod fault;
mod grants;
mod harness;
mod lifetimes;
mod line;
mod load;
mod manifests;
mod mesh;
mod models;
mod neighbours;
mod node;
mod outage;
mod pods;
mod proof;
mod propagation;
mod rights;
mod rollouts;
mod space;
mod stage;
mod status;
mod streams;
mod traffic;
mod x_mesh;

use std::process::ExitCode;

use crate::harness::{Test, With, test};

const TESTS: &[Test] = &[
    test!(With::Others, rollouts::of_backends_and_gateway),
    test!(With::Others, certificates::a_secret_that_turns_malformed_or_goes),
    test!(With::Others, grants::a_grant_that_is_deleted_stops_at_once),
    test!(With::Others, neighbours::a_broken_route_hurts_only_itself),
    test!(With::Others, neighbours::a_route_that_flaps_brings_no_storm),
    test!(With::Others, neighbours::a_namespace_that_goes_hurts_nobody_else),
    test!(With::Others, lifetimes::a_gateway_of_the_same_name_is_another_gateway),
    test!(With::Others, lifetimes::a_class_of_another_controller_is_left_alone),
    test!(With::Others, lifetimes::a_class_that_goes_leaves_its_gateways_serving),
    test!(With::Others, lifetimes::what_others_wrote_into_a_status_stays),
    test!(With::Others, addresses::of_a_pool),
    test!(With::Others, addresses::of_the_cluster_and_of_nodes),
    test!(With::Others, pods::listeners_come_and_go_without_a_restart),
    test!(With::Others, proof::programmed_means_that_it_answers),
    test!(With::Others, proof::isthmus_wait_says_when_and_why_not),
    test!(With::Others, streams::tcp_and_udp_share_a_port),
    test!(With::Others, streams::a_backend_is_verified_by_policy),
    test!(With::Others, mesh::a_strict_workload_takes_calls_of_the_mesh_only),
    test!(With::Others, mesh::probes_ask_the_application),
    test!(With::Others, mesh::a_rollout_of_a_meshed_workload_loses_nothing),
    test!(With::Others, x_mesh::a_mesh_is_accepted_and_says_what_it_can),
    test!(With::Others, models::a_newer_proxy_loses_nothing),
    test!(With::Nobody, rights::of_the_chart_suffice_and_a_proxy_has_none),
    test!(With::Nobody, models::an_older_proxy_loses_nothing),
    test!(With::Nobody, rollouts::of_the_controller),
    test!(With::Nobody, outage::a_gateway_serves_and_restarts_without_a_controller),
    test!(With::Nobody, mesh::the_controller_is_away),
    test!(With::Nobody, mesh::certificates_are_renewed),
    test!(With::Asked, mesh::the_controller_is_away_for_long),
    test!(With::Asked, mesh::certificates_are_renewed_for_long),
    test!(With::Asked, propagation::bench),
];

fn main() -> ExitCode {
    harness::main(TESTS)
}
