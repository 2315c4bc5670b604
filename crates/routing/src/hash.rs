//! The hasher of all look-up tables.

/// Quick on the short strings that hosts and paths are, and seeded anew in every process and for every table.
///
/// The keys of our tables are configuration and only look-ups are a client's, so a client cannot make buckets collide. But who
/// writes routes is not always who runs the proxy: with a fixed seed a tenant could prepare thousands of paths that collide
/// and slow down the look-ups of everybody else. The seed is never visible outside, because no hash table here is iterated.
pub(crate) type State = foldhash::fast::RandomState;
