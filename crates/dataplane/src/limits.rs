//! Every timeout and limit of the accepting side, with its reason. `docs/defaults.md` is written from this file.

use std::time::Duration;

use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};

/// What a client may take of the data plane before a request is routed. The defaults are for a port that faces the internet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, over all listeners; one more is accepted and closed at once. 50,000, as Envoy's edge guide has it:
    /// far above what two cores serve, low enough that idle connections cannot take the machine's memory (about 1 GB).
    pub connections: usize,
    /// The same for what a sidecar captures: what its pod sends and what is sent to it, each for itself, so that nobody outside can keep the
    /// pod from calling. 10,000: far above what one pod has open, and a sidecar has a fraction of
    /// a gateway's memory.
    pub captured: usize,
    /// ClientHello and TLS handshake together, counted from accept. 10 s: three round trips on a bad link are under 3 s, and a silent
    /// client costs a socket only that long.
    pub handshake: Duration,
    /// A ClientHello, with the overhead of its records. 64 KiB, which is also the largest handshake message that rustls takes; real
    /// ones are under 3 KiB.
    pub client_hello_bytes: usize,
    /// A request's header on HTTP/1, or the preface and the first request on HTTP/2, all of it, however many bytes trickle in. 10 s, as
    /// HAProxy's guides have it (nginx 60 s, Envoy none). It counts from the first byte; where that is the first of a connection,
    /// [`Limits::fresh`] has to be kept as well. Passed: 408.
    pub header: Duration,
    /// How long a new connection may be silent, and one of HTTP/2 without its first request. 10 s, as [`Limits::header`]: nobody dials a
    /// gateway to say nothing.
    pub fresh: Duration,
    /// How long an HTTP/1 connection stays open between requests. 75 s as nginx has it, above the 60 s that cloud load
    /// balancers keep their side open, so that they close first and no request meets a closing connection.
    pub idle: Duration,
    /// How long an HTTP/2 connection without open streams stays open. 5 min: browsers close theirs after as much; gRPC channels reopen
    /// without losing a call.
    pub http2_idle: Duration,
    /// The request line's target. 16 KiB (nginx 8, Envoy up to its 60 for all headers): past it 414.
    pub target_bytes: usize,
    /// Request line and headers together on HTTP/1. 60 KiB as Envoy has it: past it 431.
    pub header_bytes: usize,
    /// Header lines of a request. 100, as Envoy and HAProxy have it: past it 431.
    pub header_fields: usize,
    /// How long a read of a request body may wait for its next byte. 60 s as nginx has it.
    pub body_read: Duration,
    /// The same after a request that asks for an upgrade: a WebSocket is silent for long. 1 h, as long as the endpoint's side waits.
    pub upgraded_read: Duration,
    /// How long a write to the client may wait until it takes more. 60 s as nginx has it.
    pub write: Duration,
    /// How long a connection that is closed while the client still sends is read to its end, so that the
    /// client sees the response and not a reset. 2 s; nginx has 5.
    pub linger: Duration,
    /// How much of that is read. 8 MiB.
    pub linger_bytes: usize,
    /// Response bytes of one connection that wait to be written in one system call. 16 KiB is one TLS record.
    pub write_buffer: usize,
    /// Streams that an HTTP/2 client may have open. 100 as Envoy's edge guide and RFC 9113's advice have it.
    pub http2_streams: u32,
    /// Request headers of an HTTP/2 stream after decoding. 64 KiB: past it 431. It bounds what a small compressed header may become.
    pub http2_header_bytes: u32,
    /// What a client may send on one stream before the backend has taken it. 256 KiB: an upload at 50 ms reaches 5 MB/s.
    pub http2_stream_window: u32,
    /// The same for all streams of a connection: 1 MiB, as Envoy's edge guide has it. It bounds a connection's memory.
    pub http2_connection_window: u32,
    /// Response bytes of one stream that wait for a slow client. 64 KiB; h2 would take 400.
    pub http2_send_buffer: usize,
    /// How long a TCP or TLS connection without HTTP stays open when nothing goes either way. 1 h as Envoy has it: databases and message
    /// queues keep silent connections, and peers that vanished are noticed by keepalive.
    pub stream_idle: Duration,
    /// The same once one side has ended its half. 5 min, as long as an endpoint may think about a request: what is left is an answer, and
    /// many programs never notice that the other side has ended.
    pub stream_half_closed: Duration,
    /// How long a UDP session lasts when nothing goes either way. 60 s as Envoy has it.
    pub udp_idle: Duration,
    /// The same for one that was never answered, as forged addresses make them, and for all of a listener that is going away. 10 s:
    /// resolvers give up on a question after 5 s.
    pub udp_unanswered: Duration,
    /// UDP sessions of all listeners, each with a socket and a port of its own. 20,000: Linux has 28,000 such ports by default. Half of
    /// them is guaranteed to the listeners, the same number to each, and half is lent to whoever needs more.
    pub udp_all_sessions: usize,
    /// UDP sessions of one listener on one address. 10,000. Where there is no place, a session whose client is silent makes room, else
    /// the datagram is dropped.
    pub udp_sessions: usize,
    /// The same for one client, an IPv4 address or an IPv6 network of 64 bits. 1,000: a tenth, so that one client cannot take all.
    pub udp_client_sessions: usize,
    /// How long after its client's last datagram a UDP session that has had several makes no room. 2 s: twice as long as clients wait
    /// that ask again; a flood has to send 5,000 datagrams a second to hold 10,000 sessions.
    pub udp_in_use: Duration,
    /// How long connections of a removed listener may finish their requests. 10 min, Envoy's drain time.
    pub listener_drain: Duration,
    /// How long a gateway that calls workloads of the mesh is not ready if its own certificate does not come. 10 s: it comes in a second
    /// from a controller that is there, and other backends are served without.
    pub own_certificate: Duration,
    /// How often a listener that could not be opened is tried again. 1 s.
    pub bind_retry: Duration,
    /// The longest pause after the system refused to accept (out of file descriptors). 1 s; the first pause is 10 ms, and each is
    /// twice the one before.
    pub accept_pause: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            captured: 10_000,
            handshake: Duration::from_secs(10),
            client_hello_bytes: 64 * 1024,
            header: Duration::from_secs(10),
            fresh: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            http2_idle: Duration::from_secs(300),
            target_bytes: 16 * 1024,
            header_bytes: 60 * 1024,
            header_fields: 100,
            body_read: Duration::from_secs(60),
            upgraded_read: Duration::from_secs(3600),
            write: Duration::from_secs(60),
            linger: Duration::from_secs(2),
            linger_bytes: 8 * 1024 * 1024,
            write_buffer: 16 * 1024,
            http2_streams: 100,
            http2_header_bytes: 64 * 1024,
            http2_stream_window: 256 * 1024,
            http2_connection_window: 1024 * 1024,
            http2_send_buffer: 64 * 1024,
            stream_idle: Duration::from_secs(3600),
            stream_half_closed: Duration::from_secs(300),
            udp_idle: Duration::from_secs(60),
            udp_unanswered: Duration::from_secs(10),
            udp_all_sessions: 20_000,
            udp_sessions: 10_000,
            udp_client_sessions: 1_000,
            udp_in_use: Duration::from_secs(2),
            listener_drain: Duration::from_secs(600),
            own_certificate: Duration::from_secs(10),
            bind_retry: Duration::from_secs(1),
            accept_pause: Duration::from_secs(1),
        }
    }
}

impl Limits {
    /// What a workload may take of the sidecar beside it. It calls servers of its own choice, whose limits hold, and these should be
    /// no tighter than what such servers have: clients in a cluster open connections before they need them (gRPC channels, pools), keep them
    /// for long, and send large headers (tokens). It can harm nobody but itself.
    pub fn mesh() -> Self {
        // As Envoy's mesh filters have it; what has vanished is noticed by keepalive.
        let silence = Duration::from_secs(3600);
        Self {
            header: Duration::from_secs(60),
            fresh: silence,
            idle: silence,
            http2_idle: silence,
            // Whoever reaches the pod may send one, and the sidecar has little memory; what is longer is taken as what is no ClientHello.
            client_hello_bytes: 16 * 1024,
            target_bytes: 64 * 1024,
            header_bytes: 256 * 1024,
            // What Pingora's parser has room for.
            header_fields: 255,
            body_read: silence,
            write: silence,
            http2_streams: 1000,
            http2_header_bytes: 256 * 1024,
            // Pools of databases are silent for a night.
            stream_idle: Duration::from_secs(24 * 3600),
            stream_half_closed: silence,
            ..Self::default()
        }
    }

    /// Starts from Pingora's bounded options: h2's own default has no limit of streams and 16 MiB of headers.
    pub(crate) fn http2(&self) -> H2Options {
        let mut options = default_h2_options();
        options
            .max_concurrent_streams(self.http2_streams)
            .max_header_list_size(self.http2_header_bytes)
            .initial_window_size(self.http2_stream_window)
            .initial_connection_window_size(self.http2_connection_window)
            .max_send_buffer_size(self.http2_send_buffer);
        options
    }
}
