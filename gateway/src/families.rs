//! Where a Gateway listens that names no address: everywhere, in each address family that the pod has.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// All addresses of each family of these; of every family that sockets can be had in, if there are none.
pub(crate) fn everywhere(pod_ips: &[IpAddr]) -> Vec<IpAddr> {
    let wanted = |all: &IpAddr| match pod_ips {
        [] => TcpListener::bind((*all, 0)).is_ok(),
        some => some.iter().any(|ip| ip.is_ipv4() == all.is_ipv4()),
    };
    [V4, V6].into_iter().filter(wanted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_those_of_the_pod() {
        let (four, six) = (IpAddr::from([10, 0, 0, 1]), "fd00::1".parse().unwrap());
        assert_eq!(everywhere(&[four]), [V4]);
        assert_eq!(everywhere(&[six]), [V6]);
        assert_eq!(everywhere(&[six, four]), [V4, V6]);
        assert!(everywhere(&[]).contains(&V4), "every machine of ours has IPv4");
    }
}
