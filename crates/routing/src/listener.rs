//! Gateways, their listeners and what is attached to them.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{CertificateKey, ClientValidation, Hostname, RouteKey, TlsSettings, Transport};

/// A Gateway that a data plane serves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// Addresses to listen on.
    pub addresses: Vec<IpAddr>,
    /// Its accepted listeners, in the order of the object.
    pub listeners: Vec<Listener>,
    /// What it shows to backends that ask for a certificate (`spec.tls.backend.clientCertificateRef`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<CertificateKey>,
    /// Whether every connection begins with a header of the PROXY protocol, version 1 or 2, that says who the client is. One that
    /// does not is closed. Never of UDP.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proxy_protocol: bool,
    /// How many proxies in front of it are trusted to tell the client's address and scheme in forwarding headers; 0: none, whatever a
    /// client says of itself is replaced.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub trusted_hops: u8,
    /// Set when nobody knows at the moment what the two above are to be: whoever holds this Gateway goes on with what it has, see
    /// [`crate::Snapshot::keeping`]. They are off until then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keeps_clients: bool,
    /// Whether a request that a rule leads to a Service with routes is decided by those as well, once, as a call of a client in the
    /// Gateway's namespace. Else a backendRef means the Service's endpoints.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub service_routes: bool,
}

fn is_zero(number: &u8) -> bool {
    *number == 0
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
    /// Certificates of an HTTPS listener, or of a TLS listener that ends TLS, most preferred first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certificates: Vec<CertificateKey>,
    /// Set when TLS is not ended here but by the backend (`tls.mode: Passthrough`), which only a TLS listener can have.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passthrough: bool,
    /// Which certificates clients have to show; none: they are not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_validation: Option<ClientValidation>,
    /// Versions and ciphers, where they are not the default ones.
    #[serde(default, skip_serializing_if = "TlsSettings::is_default")]
    pub tls: TlsSettings,
    /// The routes attached to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<Attachment>,
}

impl Listener {
    /// With neither hostname, certificates nor routes, and everything else as it is by default.
    pub fn new(name: impl Into<String>, port: u16, protocol: Protocol) -> Self {
        Self {
            name: name.into(),
            port,
            bind_port: None,
            protocol,
            hostname: None,
            certificates: Vec::new(),
            passthrough: false,
            client_validation: None,
            tls: TlsSettings::default(),
            routes: Vec::new(),
        }
    }

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
    /// TLS with any bytes in it: routed by server name, then ended here or passed on as it is.
    #[serde(rename = "TLS")]
    Tls,
    /// Any bytes.
    #[serde(rename = "TCP")]
    Tcp,
    /// Any datagrams.
    #[serde(rename = "UDP")]
    Udp,
}

impl Protocol {
    /// As objects spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }

    /// What carries it.
    pub fn transport(self) -> Transport {
        if self == Self::Udp { Transport::Udp } else { Transport::Tcp }
    }

    /// Whether connections begin with a ClientHello, so that listeners share a port by the server name in it.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether requests are routed, and not connections or datagrams.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// A route on a parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The route.
    pub route: RouteKey,
    /// Those of the route's own hostnames that intersect with the listener's; empty: the route has none and takes
    /// every host of the listener. Always empty on a Service. They are the route's own, not the intersection, because they decide precedence
    /// (`GatewayRouteHostnameIntersectionPrecedence`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hostnames: Vec<Hostname>,
}
