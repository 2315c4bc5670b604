//! The compiled form of a parent's attachments.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::candidate::{Candidate, Routes};
use super::host_table::{HostTable, HostTableBuilder};
use super::precedence::{GrpcRank, HttpRank};
use crate::{Attachment, Hostname, Listener, Request, Route, RouteKey, Snapshot};

/// The routes of one parent, compiled for look-up. Immutable: a change compiles a new one.
///
/// A look-up is a few probes of hash tables: for the host, then for the path within each hostname that matches the host, most
/// specific one first. What it costs depends on how many *lengths* of prefixes and of wildcards there are, not on how many
/// routes, nor on what a client sends. It allocates nothing, unless a header that a match asks for is repeated or a query
/// parameter that a regular expression is for is escaped, or more than four regular expressions are combined and the first of
/// those that match has conditions that do not hold.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Routes,
    hosts: HostTable,
}

/// The rule that answers a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'t> {
    /// Its route.
    pub route: &'t RouteKey,
    /// The route itself, for its rule.
    pub rule: &'t crate::Rule,
    /// The position of the rule in the route.
    pub index: usize,
    /// For a prefix match, how many bytes at the start of the request's path were matched, without a trailing `/` (0 for `/`).
    /// `None` for other matches.
    pub prefix: Option<usize>,
}

impl RouteTable {
    /// Compiles the attachments of a listener. Attachments whose route is not in the snapshot are left out.
    pub fn compile(listener: &Listener, snapshot: &Snapshot) -> Self {
        Self::of(&listener.routes, &snapshot.routes)
    }

    /// Compiles attachments of one parent: of a listener with [`Snapshot::routes`], of [`crate::ServiceParent::routes_for`] a namespace with
    /// [`Snapshot::service_routes`]. Attachments whose route is not among `known` are left out.
    pub fn of(attachments: &[Attachment], known: &BTreeMap<RouteKey, Arc<Route>>) -> Self {
        let mut attached = attached(attachments, known);
        attached.sort_by(|(a, a_route), (b, b_route)| a_route.created.cmp(&b_route.created).then_with(|| a.route.cmp(&b.route)));
        let routes = Routes::new(attached.iter().map(|(at, route)| (&at.route, *route)));
        let hostnames = |candidate: &Candidate| attached[candidate.route as usize].0.hostnames();

        // Sorted once here, every list in the tables is in the order of precedence as it grows.
        let mut http: Vec<_> = routes.http_matches().collect();
        let mut grpc: Vec<_> = routes.grpc_matches().collect();
        http.sort_by_cached_key(|(asked, candidate)| (Reverse(HttpRank::from(*asked)), *candidate));
        grpc.sort_by_cached_key(|(asked, candidate)| (Reverse(GrpcRank::from(*asked)), *candidate));

        let mut hosts = HostTableBuilder::default();
        for (asked, candidate) in http {
            hostnames(&candidate).for_each(|hostname| hosts.add_http(hostname, asked, candidate));
        }
        for (asked, candidate) in grpc {
            hostnames(&candidate).for_each(|hostname| hosts.add_grpc(hostname, asked, candidate));
        }
        Self { hosts: hosts.finish(), routes }
    }

    /// The rule with the highest precedence of those that match, or none: 404.
    ///
    /// > When no rules matching a request have been successfully attached to the
    /// > parent a request is coming from, a HTTP 404 status code MUST be returned.
    ///
    /// A hostname that is more specific goes before, but does not shut out: if none of its rules match, those of the next
    /// hostname are asked. On one hostname, GRPCRoutes go before HTTPRoutes (`translate` lets only one kind have it).
    pub fn find(&self, request: &Request<'_>) -> Option<Found<'_>> {
        let (candidate, prefix) = self.hosts.find(request, &self.routes)?;
        Some(Found {
            route: self.routes.key(&candidate),
            rule: self.routes.rule(&candidate),
            index: usize::from(candidate.rule),
            prefix,
        })
    }
}

/// The attachments with their routes. Both are mostly in the order of the routes' names, so the next route in the snapshot is
/// looked at before it is searched for.
fn attached<'s>(
    attachments: &'s [Attachment],
    known: &'s BTreeMap<RouteKey, Arc<Route>>,
) -> Vec<(&'s Attachment, &'s Arc<Route>)> {
    let mut following = known.range::<RouteKey, _>(..);
    let mut find = |key: &'s RouteKey| match following.next() {
        Some((next, route)) if next == key => Some(route),
        _ => {
            following = known.range(key..);
            following.next().filter(|(next, _)| *next == key).map(|(_, route)| route)
        }
    };
    attachments.iter().filter_map(|attachment| Some((attachment, find(&attachment.route)?))).collect()
}

impl Attachment {
    /// The hostnames to be found by; `None` is every host.
    pub(super) fn hostnames(&self) -> impl Iterator<Item = Option<&Hostname>> {
        let every = self.hostnames.is_empty().then_some(None);
        every.into_iter().chain(self.hostnames.iter().map(Some))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matching::{GrpcMatch, HeaderMatch, HttpMatch, PathMatch, ValueMatch};
    use crate::{Matches, Protocol, RouteKind, Rule, Timeouts};

    fn http(kind: &str, value: &str) -> HttpMatch {
        let path = match kind {
            "exact" => PathMatch::Exact(value.to_owned()),
            "prefix" => PathMatch::Prefix(value.to_owned()),
            _ => PathMatch::Regex(value.parse().unwrap()),
        };
        HttpMatch { path, headers: Vec::new(), query: Vec::new(), method: None }
    }

    fn with_header(mut asked: HttpMatch, version: &str) -> HttpMatch {
        asked.headers.push(HeaderMatch { name: "x-version".parse().unwrap(), value: ValueMatch::Exact(version.to_owned()) });
        asked
    }

    /// Routes named by their position, each with its hostnames and a rule for each match.
    fn table(routes: Vec<(&[&str], Vec<Matches>)>) -> RouteTable {
        let mut snapshot = Snapshot::default();
        let mut attachments = Vec::new();
        for (number, (hostnames, rules)) in routes.into_iter().enumerate() {
            let kind = if matches!(rules.first(), Some(Matches::Grpc(_))) { RouteKind::Grpc } else { RouteKind::Http };
            let route = RouteKey { namespace: "default".to_owned(), name: number.to_string(), kind };
            let rule = |matches| Rule {
                name: None,
                matches,
                filters: Vec::new(),
                backends: Vec::new(),
                timeouts: Timeouts::default(),
                retry: None,
                invalid: false,
            };
            let rules = rules.into_iter().map(rule).collect();
            snapshot.routes.insert(route.clone(), Arc::new(Route { created: 0, rules }));
            attachments.push(Attachment { route, hostnames: hostnames.iter().map(|text| text.parse().unwrap()).collect() });
        }
        let missing = RouteKey { namespace: "default".to_owned(), name: "missing".to_owned(), kind: RouteKind::Http };
        attachments.push(Attachment { route: missing, hostnames: Vec::new() });
        let listener = Listener { routes: attachments, ..Listener::new("http".to_owned(), 80, Protocol::Http) };
        RouteTable::compile(&listener, &snapshot)
    }

    /// `route/rule prefix` of what is found.
    fn find(table: &RouteTable, host: &str, path: &str, headers: &[(&'static str, &'static str)]) -> String {
        let lines = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let headers: http::HeaderMap = lines.collect();
        let found = table.find(&Request { method: &http::Method::POST, host, path, query: None, headers: &headers });
        found.map_or_else(String::new, |found| {
            let prefix = found.prefix.map_or_else(String::new, |prefix| format!(" {prefix}"));
            format!("{}/{}{prefix}", found.route.name, found.index)
        })
    }

    #[test]
    fn paths() {
        let rules = [
            http("prefix", "/"),
            http("prefix", "/a/"),
            http("prefix", "/a/b"),
            http("exact", "/a/b"),
            http("regex", "/r.*"),
            http("prefix", "/r/long"),
            http("exact", "/%7Eu%c3%a9"),
        ];
        let table = table(vec![(&[], rules.into_iter().map(|asked| Matches::Http(vec![asked])).collect())]);
        let cases = [
            ("/", "0/0 0"),
            ("/x", "0/0 0"),
            ("/a", "0/1 2"),
            ("/a/", "0/1 2"),
            ("/ab", "0/0 0"),
            ("/a/c", "0/1 2"),
            ("/a/b", "0/3"),
            ("/a/b/", "0/2 4"),
            ("/a/b/c", "0/2 4"),
            ("/a/bc", "0/1 2"),
            ("/r/long", "0/4"),
            ("/~u%C3%A9", "0/6"),
            ("*", "0/0 0"),
        ];
        for (path, expected) in cases {
            assert_eq!(find(&table, "a.example", path, &[]), expected, "{path}");
        }
    }

    #[test]
    fn a_more_specific_hostname_does_not_shut_out() {
        let rule = |asked| vec![Matches::Http(vec![asked])];
        let table = table(vec![
            (&["a.example.com"], rule(http("exact", "/a"))),
            (&["*.example.com", "b.example.com"], rule(with_header(http("prefix", "/a"), "2"))),
            (&["*.com"], rule(http("prefix", "/a/b"))),
            (&[], rule(http("exact", "/a/b/c"))),
        ]);
        let header = &[("x-version", "2")][..];
        let cases = [
            ("a.example.com", "/a", header, "0/0"),
            ("a.example.com", "/a/b", header, "1/0 2"),
            ("a.example.com", "/a/b", &[], "2/0 4"),
            ("b.example.com", "/a", header, "1/0 2"),
            ("a.example.com", "/a/b/c", &[], "2/0 4"),
            ("a.example.org", "/a/b/c", &[], "3/0"),
            ("a.example.org", "/a", &[], ""),
        ];
        for (host, path, headers, expected) in cases {
            assert_eq!(find(&table, host, path, headers), expected, "{host}{path} {headers:?}");
        }
    }

    #[test]
    fn many_expressions_fall_back_on_each_other() {
        let conditional = ["/service/[a-f]+/[0-9]+", "/service/[a-f]+/.*"].map(|text| with_header(http("regex", text), "2"));
        let others = ["/service/[abc]+.*", "/.*/c/.*", "/[s]ervice", "/.*7", "/t"].map(|text| http("regex", text));
        let rules = conditional.into_iter().chain(others).map(|asked| Matches::Http(vec![asked])).collect();
        let table = table(vec![(&[], rules)]);
        let header = &[("x-version", "2")][..];
        let cases = [
            ("/service/f/17", header, "0/0"),
            ("/service/f/x", header, "0/1"),
            ("/service/a/17", &[], "0/2"),
            ("/service/f/17", &[], "0/5"),
            ("/service", header, "0/4"),
            ("/service/f/x", &[], ""),
            ("/none", header, ""),
        ];
        for (path, headers, expected) in cases {
            assert_eq!(find(&table, "a.example", path, headers), expected, "{path} {headers:?}");
        }
    }

    #[test]
    fn each_of_very_many_expressions_finds_its_own() {
        let rule = |number: usize, version| Matches::Http(vec![with_header(http("regex", &format!("/{number}/[a-z]")), version)]);
        let rules = (100..180).flat_map(|number| [rule(number, "2"), rule(number, "3"), rule(number, "4")]);
        let table = table(vec![(&[], rules.collect())]);
        for number in 100..180 {
            for (position, version) in ["2", "3", "4"].into_iter().enumerate() {
                let expected = format!("0/{}", 3 * (number - 100) + position);
                assert_eq!(find(&table, "a.example", &format!("/{number}/x"), &[("x-version", version)]), expected);
            }
        }
        assert_eq!(find(&table, "a.example", "/99/x", &[("x-version", "2")]), "");
    }

    #[test]
    fn grpc_goes_before_http_on_a_hostname() {
        let table = table(vec![
            (&["*.com"], vec![Matches::Http(vec![http("exact", "/s/m")])]),
            (&["*.com"], vec![Matches::Grpc(vec![GrpcMatch::default()])]),
            (&["a.com"], vec![Matches::Http(vec![http("prefix", "/s")])]),
        ]);
        let grpc = &[("content-type", "application/grpc")][..];
        assert_eq!(find(&table, "b.com", "/s/m", grpc), "1/0");
        assert_eq!(find(&table, "b.com", "/s/m", &[]), "0/0");
        assert_eq!(find(&table, "a.com", "/s/m", grpc), "2/0 2");
        assert_eq!(find(&table, "a.com", "/other", grpc), "1/0");
    }

    #[test]
    fn a_rule_without_matches_never_applies() {
        let table = table(vec![(&[], vec![Matches::Http(Vec::new()), Matches::Http(vec![http("prefix", "/")])])]);
        assert_eq!(find(&table, "a.example", "/", &[]), "0/1 0");
    }
}
