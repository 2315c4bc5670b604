//! What the test binaries share: case folders, a strict client, a data plane in process.
//!
//! `tests/cases/README.md` says what a case folder holds and how to write one.

pub mod api_server;
pub mod backend;
pub mod bed;
pub mod case;
pub mod certificate;
pub mod client;
pub mod decide;
pub mod equivalence;
pub mod input;
pub mod raw;
pub mod render;
pub mod serve;
pub mod stand_in;
