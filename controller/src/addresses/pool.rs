//! Ranges of addresses that are ours to give.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// Addresses from the first to the last, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pool {
    first: IpAddr,
    last: IpAddr,
}

/// A text that is no pool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "addressPools: `{0}` is no prefix like `192.0.2.0/28` and no range like `192.0.2.10-192.0.2.20`; correct the GatewayParameters"
)]
pub(super) struct InvalidPool(String);

impl FromStr for Pool {
    type Err = InvalidPool;

    /// A prefix without its network address (of IPv6 it is that of any router, RFC 4291) and its IPv4 broadcast address; a range; or one
    /// address.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidPool(text.to_owned());
        if let Some((first, last)) = text.split_once('-') {
            let pool = Self { first: first.parse().map_err(|_| invalid())?, last: last.parse().map_err(|_| invalid())? };
            let ordered = pool.first.is_ipv4() == pool.last.is_ipv4() && pool.first <= pool.last;
            return if ordered { Ok(pool) } else { Err(invalid()) };
        }
        if let Ok(one) = text.parse::<IpAddr>() {
            return Ok(Self { first: one, last: one });
        }
        let prefix: IpNet = text.parse().map_err(|_| invalid())?;
        let (first, last) = (number(prefix.network()), number(prefix.broadcast()));
        let ipv4 = prefix.addr().is_ipv4();
        let address = |number| address(number, ipv4);
        // A prefix for two hosts or one has neither (RFC 3021, RFC 6164).
        let (is_network, is_broadcast) = (prefix.prefix_len() < prefix.max_prefix_len() - 1, ipv4);
        let last = last - u128::from(is_network && is_broadcast);
        Ok(Self { first: address(first + u128::from(is_network)), last: address(last) })
    }
}

impl Pool {
    pub(super) fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.is_ipv4() && (self.first..=self.last).contains(&ip)
    }

    /// The lowest address that is free. Looks at no more addresses than are taken, and one.
    pub(super) fn lowest(&self, is_free: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
        let ipv4 = self.is_ipv4();
        (number(self.first)..=number(self.last)).map(|number| address(number, ipv4)).find(|ip| is_free(*ip))
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address(number: u128, ipv4: bool) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if ipv4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_read() {
        for (text, expected) in [
            ("192.0.2.0/28", Some(("192.0.2.1", "192.0.2.14"))),
            ("192.0.2.0/31", Some(("192.0.2.0", "192.0.2.1"))),
            ("192.0.2.7/32", Some(("192.0.2.7", "192.0.2.7"))),
            ("192.0.2.9/30", Some(("192.0.2.9", "192.0.2.10"))),
            ("0.0.0.0/0", Some(("0.0.0.1", "255.255.255.254"))),
            ("192.0.2.7", Some(("192.0.2.7", "192.0.2.7"))),
            ("192.0.2.10-192.0.2.20", Some(("192.0.2.10", "192.0.2.20"))),
            ("2001:db8::/126", Some(("2001:db8::1", "2001:db8::3"))),
            ("2001:db8::/127", Some(("2001:db8::", "2001:db8::1"))),
            ("2001:db8::1-2001:db8::9", Some(("2001:db8::1", "2001:db8::9"))),
            ("::/0", Some(("::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))),
            ("192.0.2.20-192.0.2.10", None),
            ("192.0.2.1-2001:db8::1", None),
            ("192.0.2.0/33", None),
            ("192.0.2", None),
            ("-", None),
            ("", None),
        ] {
            let expected = expected.map(|(first, last)| Pool { first: first.parse().unwrap(), last: last.parse().unwrap() });
            assert_eq!(text.parse::<Pool>().ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_lowest_free_address_of_a_large_pool_is_found_at_once() {
        let pool: Pool = "2001:db8::/32".parse().unwrap();
        let first: IpAddr = "2001:db8::1".parse().unwrap();
        assert_eq!(pool.lowest(|ip| ip != first), Some("2001:db8::2".parse().unwrap()));
        let one: Pool = "192.0.2.1".parse().unwrap();
        assert_eq!(one.lowest(|_| false), None);
        assert!(one.contains("192.0.2.1".parse().unwrap()));
        assert!(!one.contains("::".parse().unwrap()));
    }
}
