//! The one normal form of a request's path and host. It serves matching *and* forwarding, so that nothing can be matched as
//! one path and answered as another.
