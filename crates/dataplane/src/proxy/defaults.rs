//! Every default of the requesting side with its reason; `docs/defaults.md` lists the same values.

use std::time::Duration;

/// A connection to an endpoint, TLS included. Long enough for a SYN that is lost twice (it is sent again after 1 s and 3 s).
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// How long an endpoint may stay silent. There is no default for a whole request: one would cut downloads and streams, which is what
/// Envoy's 15 s surprise people with. An endpoint that hangs is noticed all the same.
pub(crate) const IDLE: Duration = Duration::from_secs(5 * 60);

/// The same for gRPC and upgraded connections, whose silence is normal.
pub(crate) const STREAM_IDLE: Duration = Duration::from_secs(60 * 60);

/// How long an unused connection to an endpoint is kept. Below the 60 s and 75 s after which common servers close theirs, so that
/// a request seldom meets a connection that is just being closed.
pub(crate) const POOL_IDLE: Duration = Duration::from_secs(50);

/// The same where a connection begins with a header of the PROXY protocol: it serves one client's connection only, and nobody after it.
pub(crate) const ANNOUNCED_IDLE: Duration = Duration::from_secs(10);

/// Unused connections that are kept, for each worker thread.
pub(crate) const POOL_SIZE: usize = 1024;

/// Streams on one HTTP/2 connection to an endpoint: what most servers allow. (Pingora's default is one.)
pub(crate) const H2_STREAMS: usize = 100;

/// What an endpoint may send on a stream, and on a connection, before somebody reads it. This is what a slow client can make us
/// hold; Pingora's default of 8 MiB is too much for that.
pub(crate) const H2_STREAM_WINDOW: u32 = 256 * 1024;
/// See [`H2_STREAM_WINDOW`].
pub(crate) const H2_CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Probes on connections to endpoints, so that a peer that vanished without a word does not hold a stream for ever: first after,
/// then every, then how often.
pub(crate) const TCP_KEEPALIVE: (Duration, Duration, usize) = (Duration::from_secs(60), Duration::from_secs(10), 6);

/// The base of the backoff between tries, as in Envoy.
pub(crate) const BACKOFF: Duration = Duration::from_millis(25);

/// A wait is at most this many times its base, as in Envoy.
pub(crate) const BACKOFF_CAP: u32 = 10;

/// Further tries that a rule without a `retry` stanza gets, only where nothing can have happened twice: the connection was not made, the
/// endpoint refused the stream, or a kept connection turned out to be closed and the method is idempotent.
pub(crate) const FAILOVERS: u32 = 2;

/// Tries of one request, whatever `attempts` says. Each takes a wait, so this many take minutes.
pub(crate) const MAX_TRIES: usize = 1000;

/// A declared body of at most this many bytes is read before a response that is made here, so that the connection can be used again.
pub(crate) const DRAIN_BEFORE: usize = 64 * 1024;
/// ... for at most this long.
pub(crate) const DRAIN_BEFORE_TIME: Duration = Duration::from_millis(300);
/// What is still read and thrown away after a response that is made here: closing while a client sends makes it lose the
/// response.
pub(crate) const DRAIN_AFTER: usize = 8 * 1024 * 1024;
/// ... for at most this long.
pub(crate) const DRAIN_AFTER_TIME: Duration = Duration::from_secs(2);

/// One mirrored request, from connecting to the end of its response.
pub(crate) const MIRROR: Duration = Duration::from_secs(15);
/// Body chunks that wait for a mirror; a mirror that is slower loses the rest of the request.
pub(crate) const MIRROR_QUEUE: usize = 64;
/// Bytes of bodies that wait for mirrors in the whole process; who finds no room loses the rest of the request. 32 MiB: with
/// chunks of 64 KiB, a mirror that hangs could otherwise make us hold gigabytes.
pub(crate) const MIRROR_BYTES: usize = 32 * 1024 * 1024;
/// Mirrored requests under way in the whole process; more are not sent.
pub(crate) const MIRRORS: usize = 1024;
