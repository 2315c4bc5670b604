//! Gateways, their listeners and what is attached to them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, Hostname, RouteKey};

/// A Gateway that a data plane serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Addresses to listen on.
    pub addresses: Vec<IpAddr>,
    /// Its accepted listeners, in the order of the object.
    pub listeners: Vec<Listener>,
}

/// A listener: a port, a protocol and the hostnames that it takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Its name within the Gateway (`sectionName`).
    pub name: String,
    /// The port of the object: what clients dial, so what redirects and forwarding headers name.
    pub port: u16,
    /// The port that is opened, where it is another one: without privileges, or behind something that translates ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_port: Option<u16>,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Which hosts it takes; none takes all. Of the listeners on a port the most specific one takes a request
    /// and no other answers for it (`GatewayHTTPListenerIsolation`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Certificates of an HTTPS listener, most preferred first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateKey>,
    /// The routes attached to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Attachment>,
}

impl Listener {
    /// The port that is opened.
    pub fn socket_port(&self) -> u16 {
        self.bind_port.unwrap_or(self.port)
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// HTTP/1.1, and HTTP/2 with prior knowledge.
    #[serde(rename = "HTTP")]
    Http,
    /// TLS, ended here, with HTTP/1.1 or HTTP/2 by ALPN.
    #[serde(rename = "HTTPS")]
    Https,
}

/// A route on a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The route.
    pub route: RouteKey,
    /// Those of the route's own hostnames that intersect with the listener's; empty: the route has none and takes
    /// every host of the listener. They are the route's own, not the intersection, because they decide precedence
    /// (`GatewayRouteHostnameIntersectionPrecedence`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Hostname>,
}
