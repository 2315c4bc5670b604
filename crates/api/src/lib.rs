//! The Kubernetes objects that Isthmus reads and writes, and the store that holds them.
//!
//! JSON of an admitted object -> [`decode`] -> [`Object`] -> [`Objects::apply`]. This is the only crate that names
//! `gateway-api`; where its generated types repeat one concept per nesting, [`shared`] holds the concept once.

#![forbid(unsafe_code)]

pub mod objects;
pub mod shared;
pub mod status;

pub use objects::{DecodeError, Kind, NamespacedName, Object, ObjectRef, Objects, decode};
