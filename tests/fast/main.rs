//! The tests that need no root, though one shows more with it: `equivalence`. One binary, because linking is slow.

mod api_server;
mod cases;
mod chart;
mod controller;
mod equivalence;
mod scale;
mod standalone;
mod tidy;
mod upstream;
mod wire;
