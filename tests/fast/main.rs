//! The tests that need no root. One binary, because linking is slow.

mod cases;
mod standalone;
mod tidy;
mod upstream;
mod wire;
