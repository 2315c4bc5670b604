//! Addresses from pools.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use isthmus_api::{NamespacedName, Service};
use isthmus_routing::GatewayKey;
use isthmus_translate::{Address, Infrastructure};

use super::pool::Pool;
use super::{Assigned, Assignment, Record, asked, ingress_ips, takes_any};
use crate::provision::POOL_CLASS;

/// A Gateway that gets its addresses from pools.
#[derive(Debug)]
pub(super) struct Candidate<'a> {
    key: &'a GatewayKey,
    given: &'a Infrastructure,
    /// None: it is not there yet, or is about to be made anew.
    service: Option<&'a Arc<Service>>,
    pools: Vec<Pool>,
    /// Texts that are no pools.
    wrong: Vec<String>,
    asked: Vec<Result<IpAddr, &'a str>>,
    /// What its Service's status says.
    recorded: Vec<IpAddr>,
    /// What it was given before, besides.
    held: Vec<IpAddr>,
}

/// Who has an address.
type Holders = BTreeMap<IpAddr, Holder>;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Gateway(GatewayKey),
    /// In words: another Service, or a Gateway that is about to give it back.
    Other(String),
}

impl<'a> Candidate<'a> {
    pub(super) fn new(
        key: &'a GatewayKey,
        given: &'a Infrastructure,
        service: Option<&'a Arc<Service>>,
        before: &Assignment,
    ) -> Self {
        let class = |service: &Service| service.spec.as_ref()?.load_balancer_class.clone();
        let service = service.filter(|service| class(service).as_deref() == Some(POOL_CLASS));
        let (pools, wrong): (Vec<_>, Vec<_>) =
            given.parameters.address_pools.iter().flatten().map(|text| text.parse::<Pool>()).partition(Result::is_ok);
        let held = before.held.get(key).filter(|(uid, _)| *uid == given.uid).map(|(_, held)| held.clone());
        Self {
            key,
            given,
            service,
            pools: pools.into_iter().flatten().collect(),
            wrong: wrong.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect(),
            asked: asked(given),
            recorded: service.map(|service| ingress_ips(service)).unwrap_or_default(),
            held: held.unwrap_or_default(),
        }
    }

    pub(super) fn service_name(&self) -> Option<NamespacedName> {
        self.service.map(|service| NamespacedName::of(&service.metadata))
    }

    fn asks_for(&self, ip: IpAddr) -> bool {
        self.asked.contains(&Ok(ip))
    }

    fn in_pool(&self, ip: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.contains(ip))
    }

    /// Whether its Service has the IP family; as long as there is none, it may have.
    fn has_family(&self, ipv4: bool) -> bool {
        let families = self.service.and_then(|service| service.spec.as_ref()?.ip_families.as_ref());
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        families.is_none_or(|families| families.is_empty() || families.iter().any(|own| own == family))
    }
}

/// Gives addresses to the candidates. In this order, within each step the oldest Gateway first: who has one by its Service's status keeps
/// it, as long as it may, whatever other Services say since; then who was given one before; addresses that are asked for by value; the
/// lowest free one of each IP family that nobody has had, or else the one that was given back the longest ago.
pub(super) fn assign(candidates: &[Candidate<'_>], taken: &BTreeMap<IpAddr, String>, assignment: &mut Assignment) {
    let mut candidates: Vec<_> = candidates.iter().collect();
    candidates.sort_by_key(|candidate| (candidate.given.created, candidate.key));
    let mut holders = Holders::new();
    let mut given: BTreeMap<&GatewayKey, Vec<IpAddr>> = BTreeMap::new();

    for candidate in &candidates {
        keep(candidate, &candidate.recorded, &mut holders, given.entry(candidate.key).or_default());
    }
    for (ip, whose) in taken {
        holders.entry(*ip).or_insert_with(|| Holder::Other(whose.clone()));
    }
    for candidate in &candidates {
        keep(candidate, &candidate.held, &mut holders, given.entry(candidate.key).or_default());
    }
    // What a Service's status says and its Gateway does not keep is given to nobody before the status says so no longer.
    for candidate in &candidates {
        for ip in &candidate.recorded {
            let leaving =
                || Holder::Other(format!("Gateway {}/{}, which gives it back", candidate.key.namespace, candidate.key.name));
            holders.entry(*ip).or_insert_with(leaving);
        }
    }
    let mut faults: BTreeMap<&GatewayKey, Vec<String>> = BTreeMap::new();
    for candidate in &candidates {
        let faults = faults.entry(candidate.key).or_default();
        faults.extend(candidate.wrong.iter().cloned());
        demand(candidate, &mut holders, given.entry(candidate.key).or_default(), faults);
    }
    for candidate in &candidates {
        let faults = faults.entry(candidate.key).or_default();
        fill(candidate, &assignment.left, &mut holders, given.entry(candidate.key).or_default(), faults);
    }
    for candidate in candidates {
        let own = given.remove(candidate.key).unwrap_or_default();
        conclude(candidate, own, faults.remove(candidate.key).unwrap_or_default(), assignment);
    }
}

/// Of what it has, what it may keep: from its pools, in a family of its Service, asked for by value or one of each family that may be any.
fn keep(candidate: &Candidate<'_>, has: &[IpAddr], holders: &mut Holders, own: &mut Vec<IpAddr>) {
    for ip in has.iter().copied() {
        let wanted = candidate.asks_for(ip)
            || takes_any(candidate.given) && !own.iter().any(|kept| kept.is_ipv4() == ip.is_ipv4() && !candidate.asks_for(*kept));
        if wanted && candidate.in_pool(ip) && candidate.has_family(ip.is_ipv4()) && !holders.contains_key(&ip) {
            holders.insert(ip, Holder::Gateway(candidate.key.clone()));
            own.push(ip);
        }
    }
}

/// What it asks for by value.
fn demand(candidate: &Candidate<'_>, holders: &mut Holders, own: &mut Vec<IpAddr>, faults: &mut Vec<String>) {
    for asked in &candidate.asked {
        let ip = match *asked {
            Ok(ip) => ip,
            Err(text) => {
                faults.push(format!("`{text}` is no IP address"));
                continue;
            }
        };
        if own.contains(&ip) {
            continue;
        }
        let fault = match holders.get(&ip) {
            Some(Holder::Gateway(other)) => {
                Some(format!("{ip} is in use by Gateway {}/{}; ask for another", other.namespace, other.name))
            }
            Some(Holder::Other(whose)) => Some(format!("{ip} is in use by {whose}; ask for another")),
            None if !candidate.in_pool(ip) => {
                Some(format!("{ip} is not in an address pool of the GatewayClass; ask for one that is"))
            }
            None if !candidate.has_family(ip.is_ipv4()) => {
                Some(format!("{ip} is of an IP family that the Service does not have"))
            }
            None => None,
        };
        match fault {
            Some(fault) => faults.push(fault),
            None => {
                holders.insert(ip, Holder::Gateway(candidate.key.clone()));
                own.push(ip);
            }
        }
    }
}

/// One of each family that has a pool, if any address will do.
fn fill(candidate: &Candidate<'_>, left: &[IpAddr], holders: &mut Holders, own: &mut Vec<IpAddr>, faults: &mut Vec<String>) {
    if candidate.service.is_none() || !takes_any(candidate.given) {
        return;
    }
    for ipv4 in [true, false] {
        let pools: Vec<_> = candidate.pools.iter().filter(|pool| pool.is_ipv4() == ipv4).collect();
        let has_one = own.iter().any(|ip| ip.is_ipv4() == ipv4 && !candidate.asks_for(*ip));
        if pools.is_empty() || has_one || !candidate.has_family(ipv4) {
            continue;
        }
        let is_free = |ip| !holders.contains_key(&ip);
        let unused = pools.iter().find_map(|pool| pool.lowest(|ip| is_free(ip) && !left.contains(&ip)));
        let used = || left.iter().copied().find(|ip| is_free(*ip) && pools.iter().any(|pool| pool.contains(*ip)));
        match unused.or_else(used) {
            Some(ip) => {
                holders.insert(ip, Holder::Gateway(candidate.key.clone()));
                own.push(ip);
            }
            None => faults
                .push(format!("no {} address is free in the address pools; enlarge them", if ipv4 { "IPv4" } else { "IPv6" })),
        }
    }
}

fn conclude(candidate: &Candidate<'_>, own: Vec<IpAddr>, mut faults: Vec<String>, assignment: &mut Assignment) {
    let only_asked = !takes_any(candidate.given);
    let addresses = match candidate.service {
        None => None,
        // What it asks for cannot be given: that is known, and not a matter of time.
        Some(_) if own.is_empty() && !only_asked => None,
        Some(_) => Some(own.iter().copied().map(Address::Ip).collect()),
    };
    if candidate.service.is_none() {
        faults.push("its Service is not there yet".to_owned());
    }
    assignment.gateways.insert(candidate.key.clone(), Assigned { addresses, faults, notes: Vec::new() });
    // Also while its Service is made anew.
    assignment.held.insert(candidate.key.clone(), (candidate.given.uid.clone(), own.clone()));
    let Some(service) = candidate.service else { return };
    if own != candidate.recorded {
        assignment.records.push(Record {
            gateway: candidate.key.clone(),
            service: NamespacedName::of(&service.metadata),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            resource_version: service.metadata.resource_version.clone().unwrap_or_default(),
            seen: candidate.recorded.clone(),
            addresses: own,
        });
    }
}
