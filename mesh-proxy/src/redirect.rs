//! The nftables ruleset that hands a pod's TCP connections to its sidecar.
//!
//! NAT of the first packet of a connection: the sidecar reads the original destination from the accepted socket. Nothing else is touched, so
//! UDP, and connections that were open before, go on as they were.

use std::collections::BTreeSet;
use std::fmt::{self, Display, Write as _};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Where the sidecar takes what goes out.
pub(crate) const OUTBOUND: u16 = 15421;
/// Where it takes what comes in.
pub(crate) const INBOUND: u16 = 15422;
/// Probes, metrics and `/readyz`: asked from outside of the pod, without the mesh.
pub(crate) const ADMIN: u16 = 15423;
/// Who the sidecar is; no other process of the pod may be.
const USER: u32 = 15420;

/// Of NAT of destinations (`dstnat`); nft has the name for chains at `prerouting` only.
const PRIORITY: i32 = -100;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The user whose connections are left alone: the sidecar's own.
    #[arg(long, value_name = "UID", default_value_t = USER, value_parser = clap::value_parser!(u32).range(1..))]
    uid: u32,

    /// Destination ports of outgoing connections that are left alone: 25,587.
    #[arg(long, value_name = "PORTS", default_value_t, hide_default_value = true)]
    exclude_outbound_ports: Ports,

    /// Ports of this pod on which incoming connections are left alone: 9100,9200.
    #[arg(long, value_name = "PORTS", default_value_t, hide_default_value = true)]
    exclude_inbound_ports: Ports,

    /// Destinations of outgoing connections that are left alone: 10.1.0.0/16,fd00::/8.
    #[arg(long, value_name = "CIDRS", default_value_t, hide_default_value = true)]
    exclude_outbound_cidrs: Networks,

    /// Write the ruleset to standard output and change nothing.
    #[arg(long)]
    print: bool,
}

/// Why nothing is captured.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RedirectError {
    /// There is no `nft`.
    #[error("`nft` cannot be started: {0}; the image docker.io/isthmus/mesh-redirect has it")]
    Start(#[source] io::Error),
    /// `nft` does not take the ruleset, or it could not be printed.
    #[error("the ruleset cannot be handed over: {0}")]
    Write(#[source] io::Error),
    /// The system does not let us.
    #[error(
        "the traffic of this pod cannot be captured, the right is missing: this container has to run as root with the capability NET_ADMIN, \
         which the Pod Security levels baseline and restricted forbid (label the namespace pod-security.kubernetes.io/enforce=privileged, \
         or leave it out of the mesh): {0}"
    )]
    Right(String),
    /// The kernel cannot do it.
    #[error(
        "the traffic of this pod cannot be captured, the node's kernel has not all of nf_tables: it needs nf_tables, nft_chain_nat, nft_redir \
         and nft_fib_inet, built in or as modules that are loaded on the node: {0}"
    )]
    Kernel(String),
}

/// Replaces the table `inet isthmus` of this network namespace. Twice is the same as once; a failure changes nothing.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode, RedirectError> {
    let ruleset = arguments.ruleset();
    if arguments.print {
        io::stdout().write_all(ruleset.as_bytes()).map_err(RedirectError::Write)?;
    } else {
        apply(&ruleset)?;
        let Arguments { uid, exclude_outbound_ports, exclude_inbound_ports, exclude_outbound_cidrs, .. } = arguments;
        tracing::info!(
            uid,
            %exclude_outbound_ports,
            %exclude_inbound_ports,
            %exclude_outbound_cidrs,
            "the TCP connections of this pod go through its sidecar"
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn apply(ruleset: &str) -> Result<(), RedirectError> {
    let mut nft = Command::new("nft");
    let mut child = nft
        .args(["-f", "-"])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(RedirectError::Start)?;
    let handed = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(ruleset.as_bytes()));
    let output = child.wait_with_output().map_err(RedirectError::Write)?;
    if output.status.success() {
        return handed.map_err(RedirectError::Write);
    }
    Err(refused(&String::from_utf8_lossy(&output.stderr)))
}

/// What `nft` says, which may be many lines, as one error.
fn refused(said: &str) -> RedirectError {
    let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let is_right = ["not permitted", "ermission denied"].iter().any(|part| words.contains(part));
    if is_right { RedirectError::Right(words) } else { RedirectError::Kernel(words) }
}

impl Arguments {
    /// One transaction: the table is made if absent, so that it can be deleted with all that is in it, and made anew. What goes over `lo` is
    /// decided at `output`, once: `prerouting` does not see it. What only passes through the pod (containers in a container) goes on.
    fn ruleset(&self) -> String {
        let mut output = String::new();
        rule(&mut output, "tcp dport", &self.exclude_outbound_ports.0);
        rule(&mut output, "ip daddr", &self.exclude_outbound_cidrs.v4);
        rule(&mut output, "ip6 daddr", &self.exclude_outbound_cidrs.v6);
        let mut inbound = self.exclude_inbound_ports.0.clone();
        inbound.insert(ADMIN);
        let mut prerouting = String::new();
        rule(&mut prerouting, "tcp dport", &inbound);
        let uid = self.uid;
        // Numbers where nft would look for a name in a file of the system: the image has none.
        format!(
            "add table inet isthmus
delete table inet isthmus
table inet isthmus {{
  chain output {{
    type nat hook output priority {PRIORITY}; policy accept;
    oifname \"lo\" return
    meta skuid {uid} return
{output}    meta l4proto 6 redirect to :{OUTBOUND}
  }}
  chain prerouting {{
    type nat hook prerouting priority {PRIORITY}; policy accept;
    fib daddr type != local return
{prerouting}    meta l4proto 6 redirect to :{INBOUND}
  }}
}}
"
        )
    }
}

/// Leaves alone what is among these.
fn rule<T: Display>(chain: &mut String, what: &str, these: impl IntoIterator<Item = T>) {
    let these = list(these, ", ");
    if !these.is_empty() {
        // Writing to a String cannot fail.
        let _ = writeln!(chain, "    {what} {{ {these} }} return");
    }
}

fn list<T: Display>(items: impl IntoIterator<Item = T>, separator: &str) -> String {
    items.into_iter().map(|item| item.to_string()).collect::<Vec<_>>().join(separator)
}

/// Ports as an annotation has them: `80,443`, with or without blanks, or nothing.
#[derive(Debug, Clone, Default)]
struct Ports(BTreeSet<u16>);

impl FromStr for Ports {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |part: &str| {
            part.parse().ok().filter(|port| *port != 0).ok_or_else(|| format!("`{part}` is no port from 1 to 65535"))
        };
        parts(text).map(port).collect::<Result<_, _>>().map(Self)
    }
}

impl Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&list(&self.0, ","))
    }
}

/// Networks or addresses as an annotation has them: `10.0.0.0/8,fd00::1`, or nothing. Without overlaps, which a set must not have.
#[derive(Debug, Clone, Default)]
struct Networks {
    v4: Vec<Ipv4Net>,
    v6: Vec<Ipv6Net>,
}

impl FromStr for Networks {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut networks = Self::default();
        for part in parts(text) {
            let address = || part.parse::<IpAddr>().ok().map(IpNet::from);
            match part.parse().ok().or_else(address) {
                Some(IpNet::V4(network)) => networks.v4.push(network),
                Some(IpNet::V6(network)) => networks.v6.push(network),
                None => return Err(format!("`{part}` is no network such as 10.0.0.0/8 or fd00::/8")),
            }
        }
        Ok(Self { v4: Ipv4Net::aggregate(&networks.v4), v6: Ipv6Net::aggregate(&networks.v6) })
    }
}

impl Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.v4.iter().copied().map(IpNet::V4).chain(self.v6.iter().copied().map(IpNet::V6));
        f.write_str(&list(all, ","))
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(words: &[&str]) -> Result<Arguments, String> {
        let words = ["redirect"].iter().chain(words);
        Line::try_parse_from(words).map(|line| line.arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn without_exceptions_all_but_the_sidecars_own_is_captured() {
        // What an injector writes of annotations that are not there.
        let empty = ["--exclude-outbound-ports=", "--exclude-inbound-ports=", "--exclude-outbound-cidrs="];
        assert_eq!(parse(&empty).unwrap().ruleset(), parse(&[]).unwrap().ruleset());
        assert_eq!(
            parse(&[]).unwrap().ruleset(),
            r#"add table inet isthmus
delete table inet isthmus
table inet isthmus {
  chain output {
    type nat hook output priority -100; policy accept;
    oifname "lo" return
    meta skuid 15420 return
    meta l4proto 6 redirect to :15421
  }
  chain prerouting {
    type nat hook prerouting priority -100; policy accept;
    fib daddr type != local return
    tcp dport { 15423 } return
    meta l4proto 6 redirect to :15422
  }
}
"#
        );
    }

    #[test]
    fn exceptions_come_before_the_redirection() {
        let ruleset = parse(&[
            "--uid=7",
            "--exclude-outbound-ports",
            "443, 80",
            "--exclude-inbound-ports",
            "9100",
            "--exclude-outbound-cidrs",
            "10.1.2.3/8,10.1.0.0/16,192.0.2.1,fd00::/8",
        ]);
        let ruleset = ruleset.unwrap().ruleset();
        for (before, after) in [
            ("meta skuid 7 return", "redirect to :15421"),
            ("tcp dport { 80, 443 } return", "redirect to :15421"),
            ("ip daddr { 10.0.0.0/8, 192.0.2.1/32 } return", "redirect to :15421"),
            ("ip6 daddr { fd00::/8 } return", "redirect to :15421"),
            ("tcp dport { 9100, 15423 } return", "redirect to :15422"),
        ] {
            let at = |part: &str| ruleset.find(part).unwrap_or_else(|| panic!("no `{part}` in\n{ruleset}"));
            assert!(at(before) < at(after), "{before}\n{ruleset}");
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (word, part) in [
            ("--exclude-outbound-ports=80,http", "`http` is no port"),
            ("--exclude-inbound-ports=0", "`0` is no port"),
            ("--exclude-inbound-ports=65536", "`65536` is no port"),
            ("--exclude-outbound-cidrs=10.0.0.0/33", "`10.0.0.0/33` is no network"),
            ("--exclude-outbound-cidrs=10.0.0.0/8;drop", "is no network"),
            ("--uid=0", "0 is not in 1.."),
        ] {
            let error = parse(&[word]).unwrap_err();
            assert!(error.contains(part), "{word}: {error}");
        }
    }

    #[test]
    fn what_nft_says_becomes_an_advice() {
        let right = refused("netlink: Error: cache initialization failed: Operation not permitted\n").to_string();
        assert!(right.contains("NET_ADMIN") && right.ends_with("failed: Operation not permitted"), "{right}");
        let kernel =
            refused("-:6:4-9: Error: Could not process rule: No such file or directory\n  chain output\n  ^^^^\n").to_string();
        assert!(kernel.contains("nft_redir") && kernel.contains("No such file or directory chain output"), "{kernel}");
    }
}
