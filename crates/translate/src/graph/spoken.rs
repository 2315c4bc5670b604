//! What is known of what clients of a Service's port say, by how its author calls it.

use isthmus_api::core::api::core::v1::ServicePort;
use isthmus_routing::Spoken;

/// What a port says of itself: `appProtocol`, or else how its name begins.
pub(super) fn of(port: &ServicePort) -> Spoken {
    match port.app_protocol.as_deref().filter(|protocol| !protocol.is_empty()) {
        Some(protocol) => of_protocol(protocol),
        None => port.name.as_deref().map_or(Spoken::Unknown, of_name),
    }
}

/// Whoever sets it knows what it is: what is not HTTP in cleartext is none.
fn of_protocol(protocol: &str) -> Spoken {
    const HTTP: &[&str] = &["http", "http2", "h2c", "grpc", "ws", "kubernetes.io/http", "kubernetes.io/h2c", "kubernetes.io/ws"];
    let is_http = HTTP.iter().any(|known| known.eq_ignore_ascii_case(protocol));
    if is_http { Spoken::Http } else { Spoken::Stream }
}

/// `http`, `grpc-web`; a name of another kind says nothing.
fn of_name(name: &str) -> Spoken {
    const HTTP: &[&str] = &["http", "http2", "h2c", "grpc"];
    const STREAM: &[&str] = &[
        "tcp",
        "tls",
        "https",
        "mysql",
        "mariadb",
        "postgres",
        "postgresql",
        "redis",
        "mongo",
        "mongodb",
        "amqp",
        "amqps",
        "mqtt",
        "kafka",
        "smtp",
        "smtps",
        "imap",
        "imaps",
        "ldap",
        "ldaps",
        "ssh",
    ];
    let first = name.split('-').next().unwrap_or(name);
    match () {
        () if HTTP.contains(&first) => Spoken::Http,
        () if STREAM.contains(&first) => Spoken::Stream,
        () => Spoken::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_say_what_their_clients_speak() {
        use Spoken::{Http, Stream, Unknown};
        for (protocol, name, expected) in [
            (None, None, Unknown),
            (None, Some(""), Unknown),
            (None, Some("http"), Http),
            (None, Some("http-admin"), Http),
            (None, Some("http2"), Http),
            (None, Some("h2c"), Http),
            (None, Some("grpc-web"), Http),
            (None, Some("https"), Stream),
            (None, Some("https-alt"), Stream),
            (None, Some("tcp-echo"), Stream),
            (None, Some("mysql"), Stream),
            (None, Some("postgres-rw"), Stream),
            (None, Some("httpd"), Unknown),
            (None, Some("web"), Unknown),
            (None, Some("my-http"), Unknown),
            (Some(""), Some("http"), Http),
            (Some("http"), None, Http),
            (Some("HTTP"), None, Http),
            (Some("grpc"), Some("tcp"), Http),
            (Some("kubernetes.io/h2c"), None, Http),
            (Some("kubernetes.io/ws"), None, Http),
            (Some("kubernetes.io/wss"), None, Stream),
            (Some("https"), None, Stream),
            (Some("redis"), Some("http"), Stream),
            (Some("example.com/own"), None, Stream),
        ] {
            let port = ServicePort {
                app_protocol: protocol.map(str::to_owned),
                name: name.map(str::to_owned),
                port: 80,
                ..ServicePort::default()
            };
            assert_eq!(of(&port), expected, "{protocol:?} {name:?}");
        }
    }
}
