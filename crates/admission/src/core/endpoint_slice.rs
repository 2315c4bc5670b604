//! EndpointSlice.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::{check_one_of, check_port, default_to, entries};
use crate::Finding;
use crate::metadata::Naming;
use crate::path::Path;

const ADDRESSES: usize = 100;

/// Ports get a name and a protocol; addresses have to be of the slice's type.
pub(super) fn admit(slice: &mut Map<String, Value>, findings: &mut Vec<Finding>) {
    let path = Path::Root;
    check_one_of(slice, "addressType", &["IPv4", "IPv6", "FQDN"], &path, findings);
    let address_type = slice.get("addressType").and_then(Value::as_str).unwrap_or_default().to_owned();
    if address_type.is_empty() {
        findings.push(path.field("addressType").required(""));
    }
    let endpoints = path.field("endpoints");
    for (index, endpoint) in entries(slice, "endpoints") {
        check_addresses(endpoint, &address_type, &endpoints.index(index).field("addresses"), findings);
    }
    let ports = path.field("ports");
    let mut names = BTreeSet::new();
    for (index, port) in entries(slice, "ports") {
        let path = ports.index(index);
        default_to(port, "name", || json!(""));
        default_to(port, "protocol", || json!("TCP"));
        check_one_of(port, "protocol", &["TCP", "UDP", "SCTP"], &path, findings);
        check_port(port, "port", &path, findings);
        let name = port.get("name").and_then(Value::as_str).unwrap_or_default();
        if let Some(why) = Naming::Label.fault(name)
            && !name.is_empty()
        {
            findings.push(path.field("name").invalid(&json!(name), &why));
        }
        if !names.insert(name.to_owned()) {
            findings.push(path.field("name").duplicate(&json!(name)));
        }
    }
}

fn check_addresses(endpoint: &Map<String, Value>, address_type: &str, path: &Path<'_>, findings: &mut Vec<Finding>) {
    let addresses = endpoint.get("addresses").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if addresses.is_empty() {
        findings.push(path.required("must contain at least 1 address"));
    }
    if addresses.len() > ADDRESSES {
        findings.push(path.says(format!("Too many: {}: must have at most {ADDRESSES} items", addresses.len())));
    }
    for (index, value) in addresses.iter().enumerate() {
        let text = value.as_str().unwrap_or_default();
        let why = match address_type {
            "IPv4" if text.parse::<Ipv4Addr>().is_err() => "must be an IPv4 address".to_owned(),
            "IPv6" if text.parse::<Ipv6Addr>().is_err() => "must be an IPv6 address".to_owned(),
            "FQDN" => match Naming::Subdomain.fault(text.trim_end_matches('.')) {
                Some(why) => why,
                None => continue,
            },
            _ => continue,
        };
        findings.push(path.index(index).invalid(value, &why));
    }
}
