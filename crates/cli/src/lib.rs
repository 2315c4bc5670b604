//! A folder of Gateway API YAML -> a gateway on this machine.
//!
//! Files ([`source`]) -> objects as an API server would hold them ([`state`]) -> snapshot and statuses ([`standalone`]) -> the data plane,
//! a table for the person in front of it ([`table`]) and statuses for a pipeline ([`statuses`]).

#![forbid(unsafe_code)]

pub mod args;
pub mod authority;
pub mod certificates;
pub mod checks;
pub mod echo;
pub mod hints;
pub mod inject;
pub mod message;
pub mod ports;
pub mod run;
pub mod screen;
pub mod source;
pub mod standalone;
pub mod state;
pub mod statuses;
pub mod table;
pub mod wait;
