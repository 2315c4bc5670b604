//! The route that takes a connection or a datagram: of TLSRoutes by server name, of TCPRoutes and UDPRoutes the oldest.

use crate::{Attachment, HostMap, Listener, Matches, RouteKey, Snapshot};

/// The TLSRoutes, TCPRoutes or UDPRoutes of one listener, compiled for look-up. Immutable: a change compiles a new one.
#[derive(Debug, Default)]
pub struct StreamTable {
    routes: HostMap<StreamFound>,
}

/// The rule that takes a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFound {
    /// Its route.
    pub route: RouteKey,
    /// The position of the rule in the route.
    pub index: usize,
}

impl StreamTable {
    /// Compiles the attachments of a listener. Attachments whose route is not in the snapshot, or has no rule for connections, are left
    /// out.
    ///
    /// Of several for one hostname the oldest takes the connection, then the first by `namespace/name`: how the specification breaks ties
    /// everywhere.
    pub fn compile(listener: &Listener, snapshot: &Snapshot) -> Self {
        let find = |attachment: &'_ Attachment| {
            let key = &attachment.route;
            let route = snapshot.routes.get(key)?;
            let index = route.rules.iter().position(|rule| rule.matches == Matches::Any)?;
            Some((route.created, StreamFound { route: key.clone(), index }))
        };
        let attached = listener.routes.iter().filter_map(|attachment| Some((attachment, find(attachment)?)));
        let mut attached: Vec<_> = attached.collect();
        attached.sort_by(|(_, (created, a)), (_, (other, b))| created.cmp(other).then_with(|| a.route.cmp(&b.route)));
        let mut routes = HostMap::default();
        for (attachment, (_, found)) in attached {
            for hostname in attachment.hostnames() {
                routes.entry(hostname, || found.clone());
            }
        }
        Self { routes }
    }

    /// The rule for a server name: lower-case, without trailing dot; none for a client that names no server, and where there are no
    /// server names. None: nobody takes it.
    pub fn find(&self, server_name: Option<&str>) -> Option<&StreamFound> {
        self.routes.get(server_name.unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{Protocol, Route, RouteKind, Rule, Timeouts};

    fn table(routes: &[(&str, i64, &[&str])]) -> StreamTable {
        let mut snapshot = Snapshot::default();
        let mut attachments = Vec::new();
        for (name, created, hostnames) in routes {
            let key = RouteKey { namespace: "shop".to_owned(), name: (*name).to_owned(), kind: RouteKind::Tls };
            let rule = Rule {
                name: None,
                matches: Matches::Any,
                filters: Vec::new(),
                backends: Vec::new(),
                timeouts: Timeouts::default(),
                retry: None,
                invalid: false,
            };
            snapshot.routes.insert(key.clone(), Arc::new(Route { created: *created, rules: vec![rule] }));
            let hostnames = hostnames.iter().map(|text| text.parse().unwrap()).collect();
            attachments.push(Attachment { route: key, hostnames });
        }
        let listener = Listener { routes: attachments, ..Listener::new("tls", 443, Protocol::Tls) };
        StreamTable::compile(&listener, &snapshot)
    }

    #[test]
    fn the_most_specific_hostname_then_the_oldest_then_the_first_by_name() {
        let found = |routes: &[(&str, i64, &[&str])], name| table(routes).find(name).map(|found| found.route.name.clone());
        let by_host: &[(&str, i64, &[&str])] =
            &[("any", 1, &[]), ("wild", 2, &["*.a.test"]), ("exact", 3, &["x.a.test", "y.a.test"])];
        for (name, expected) in [("x.a.test", "exact"), ("z.a.test", "wild"), ("a.test", "any"), ("other", "any")] {
            assert_eq!(found(by_host, Some(name)).as_deref(), Some(expected), "{name}");
        }
        assert_eq!(found(by_host, None).as_deref(), Some("any"));
        assert_eq!(found(&by_host[1..], None), None);
        assert_eq!(found(&[("young", 2, &[]), ("old", 1, &[])], None).as_deref(), Some("old"));
        assert_eq!(found(&[("b", 1, &[]), ("a", 1, &[])], None).as_deref(), Some("a"));
    }
}
