//! The control plane: the Kubernetes API -> what proxies serve, what statuses say, and what Gateways run on.
//!
//! Every instance watches and translates; the one that leads accepts proxies, writes statuses and provides infrastructure. Versions
//! are content hashes, so another leader changes nothing for a proxy.
//!
//! [`reconcile`](self) owns the objects; everything else has a task of its own and is told by watch channels.

#![forbid(unsafe_code)]

pub mod addresses;
mod admin;
pub mod args;
pub mod authenticate;
pub mod authority;
pub mod ca;
pub mod crds;
pub mod inject;
pub mod leader;
mod metrics;
pub mod proof;
pub mod provision;
pub mod ready;
mod reconcile;
pub mod run;
pub mod status;
#[cfg(test)]
mod testing;
pub mod watch;

pub use run::{Election, Settings, StartError, run};
