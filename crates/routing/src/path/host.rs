//! The normal form of a request's host.

use std::borrow::Cow;
use std::net::Ipv6Addr;

/// A Host header or `:authority` that names no host. The request is answered with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// No host, or an empty label.
    #[error("the host is empty, or has two dots in a row or one at its start")]
    Empty,
    /// `user@host`.
    #[error("the host has user information before an `@`; send it in the Authorization header")]
    UserInfo,
    /// A character that is not of a host: of a list, a path, an escape.
    #[error("the host has a character that is none of letters, digits, `-`, `.` and `_`; send one host and nothing else")]
    Character,
    /// Not a port number.
    #[error("the port after the host is not a number from 1 to 65535")]
    Port,
    /// In brackets, but not an IPv6 address.
    #[error("the host in brackets is not an IPv6 address")]
    Ipv6,
    /// Longer than a name can be.
    #[error("the host has more than 253 characters")]
    TooLong,
}

/// The host of a Host header or `:authority`, in the form that hostnames are compared with: lower-case, without port and trailing
/// dot; an IPv6 address in its canonical form, in brackets.
///
/// | `authority` | host | why |
/// |---|---|---|
/// | `Shop.Example.com:8443` | `shop.example.com` | names have no case, and a listener's hostname no port |
/// | `example.com.` | `example.com` | the same name, fully qualified |
/// | `example.com:` | `example.com` | RFC 3986 3.2.3 allows an empty port |
/// | `10.0.0.1`, `[::1]:80` | `10.0.0.1`, `[::1]` | they reach listeners without a hostname |
/// | `a_b.example.com` | itself | no hostname, but names like it resolve and are in use |
/// | empty, `.`, `a..b`, `.a` | refused | no name |
/// | `a, b`, `a b`, `a/b`, `u@a`, `a%2e`, `bücher.example` | refused | not one host; IDNs are sent as `xn--` labels |
/// | `a:0`, `a:b`, `a:99999`, `a:1:2` | refused | no port |
///
/// # Errors
/// When the table refuses it.
pub fn host_of(authority: &str) -> Result<Cow<'_, str>, InvalidHost> {
    if authority.contains('@') {
        return Err(InvalidHost::UserInfo);
    }
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(InvalidHost::Ipv6)?;
        let canonical = format!("[{}]", address.parse::<Ipv6Addr>().map_err(|_| InvalidHost::Ipv6)?);
        match after.strip_prefix(':') {
            Some(port) => check_port(port)?,
            None if after.is_empty() => {}
            None => return Err(InvalidHost::Character),
        }
        return Ok(if canonical == authority { Cow::Borrowed(authority) } else { Cow::Owned(canonical) });
    }
    let name = match authority.split_once(':') {
        Some((name, port)) => {
            check_port(port)?;
            name
        }
        None => authority,
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    check_name(name)?;
    Ok(if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

fn check_port(port: &str) -> Result<(), InvalidHost> {
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    if port.is_empty() || (digits && port.parse::<u16>().is_ok_and(|port| port > 0)) { Ok(()) } else { Err(InvalidHost::Port) }
}

fn check_name(name: &str) -> Result<(), InvalidHost> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if !name.bytes().all(allowed) {
        return Err(InvalidHost::Character);
    }
    if name.split('.').any(str::is_empty) {
        return Err(InvalidHost::Empty);
    }
    if name.len() > 253 { Err(InvalidHost::TooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn hosts() {
        let long = format!("{}a", "a.".repeat(126));
        let too_long = format!("{}a", "a.".repeat(127));
        let cases = [
            ("example.com", Ok("example.com")),
            ("Example.COM:80", Ok("example.com")),
            ("example.com.", Ok("example.com")),
            ("example.com.:8080", Ok("example.com")),
            ("example.com:", Ok("example.com")),
            ("a_b-c.d", Ok("a_b-c.d")),
            ("127.0.0.1:1", Ok("127.0.0.1")),
            ("[::1]", Ok("[::1]")),
            ("[::1]:65535", Ok("[::1]")),
            ("[::1]:", Ok("[::1]")),
            ("[0:0::ABCD]", Ok("[::abcd]")),
            (&*long, Ok(&*long)),
            (&*too_long, Err(InvalidHost::TooLong)),
            ("", Err(InvalidHost::Empty)),
            (":80", Err(InvalidHost::Empty)),
            (".", Err(InvalidHost::Empty)),
            ("a..", Err(InvalidHost::Empty)),
            (".a", Err(InvalidHost::Empty)),
            ("a, b", Err(InvalidHost::Character)),
            ("a/b", Err(InvalidHost::Character)),
            ("a%41", Err(InvalidHost::Character)),
            ("*.example.com", Err(InvalidHost::Character)),
            ("bücher.example", Err(InvalidHost::Character)),
            ("user@a", Err(InvalidHost::UserInfo)),
            ("a:b", Err(InvalidHost::Port)),
            ("a:+1", Err(InvalidHost::Port)),
            ("a:0", Err(InvalidHost::Port)),
            ("a:65536", Err(InvalidHost::Port)),
            ("a:1:2", Err(InvalidHost::Port)),
            ("::1", Err(InvalidHost::Port)),
            ("[::1", Err(InvalidHost::Ipv6)),
            ("[fe80::1%eth0]", Err(InvalidHost::Ipv6)),
            ("[1.2.3.4]", Err(InvalidHost::Ipv6)),
            ("[::1]x", Err(InvalidHost::Character)),
        ];
        for (authority, host) in cases {
            assert_eq!(host_of(authority).as_deref(), host.as_ref().copied(), "{authority}");
        }
    }

    proptest! {
        #[test]
        fn host_is_a_fixed_point(authority in "[aA.:0-9\\[\\]_@,-]{0,12}|\\[[0-9aF:.]{2,9}\\](:[0-9]{1,6})?|.{0,8}") {
            if let Ok(host) = host_of(&authority) {
                prop_assert!(matches!(host_of(&host), Ok(Cow::Borrowed(same)) if same == host));
            }
        }
    }
}
