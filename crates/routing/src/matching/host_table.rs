//! Everything that is attached, by hostname.

use hashbrown::HashMap;

use super::candidate::{Candidate, Routes};
use super::grpc_table::GrpcTable;
use super::http_table::{HttpHost, HttpHostBuilder, HttpTable, Shapes};
use super::{GrpcMatch, HttpMatch, Request};
use crate::hash::State;
use crate::{HostMap, Hostname};

/// The matches of all attached routes.
#[derive(Debug, Default)]
pub(super) struct HostTable {
    hosts: HostMap<Host>,
    http: HttpTable,
}

/// The matches with one hostname.
#[derive(Debug)]
struct Host {
    http: HttpHost,
    grpc: Option<Box<GrpcTable>>,
}

impl HostTable {
    /// The best match, and for a prefix how many bytes of the path it is.
    pub(super) fn find(&self, request: &Request<'_>, routes: &Routes) -> Option<(Candidate, Option<usize>)> {
        self.hosts.matches(request.host).find_map(|host| {
            let grpc = host.grpc.as_ref().filter(|_| request.is_grpc());
            let found = grpc.and_then(|grpc| grpc.find(request, routes)).map(|candidate| (candidate, None));
            found.or_else(|| self.http.find(&host.http, request, routes))
        })
    }
}

/// A table while matches are added.
#[derive(Debug, Default)]
pub(super) struct HostTableBuilder<'h> {
    numbers: HashMap<Option<&'h Hostname>, u32, State>,
    hosts: Vec<(Option<&'h Hostname>, HostBuilder)>,
    http: HttpTable,
}

#[derive(Debug, Default)]
struct HostBuilder {
    http: HttpHostBuilder,
    grpc: Option<Box<GrpcTable>>,
}

impl<'h> HostTableBuilder<'h> {
    /// To be called in the order of precedence.
    pub(super) fn add_http(&mut self, hostname: Option<&'h Hostname>, asked: &HttpMatch, candidate: Candidate) {
        let number = self.number(hostname);
        self.hosts[number as usize].1.http.add(number, asked, candidate, &mut self.http);
    }

    /// To be called in the order of precedence.
    pub(super) fn add_grpc(&mut self, hostname: Option<&'h Hostname>, asked: &GrpcMatch, candidate: Candidate) {
        let number = self.number(hostname);
        self.hosts[number as usize].1.grpc.get_or_insert_default().add(asked, candidate);
    }

    pub(super) fn finish(mut self) -> HostTable {
        let mut shapes = Shapes::default();
        let finished = (0..)
            .zip(self.hosts)
            .map(|(number, (hostname, host))| (hostname, Host { http: host.http.finish(number, &mut shapes), grpc: host.grpc }));
        let hosts = finished.collect();
        shapes.finish(&mut self.http);
        HostTable { hosts, http: self.http }
    }

    fn number(&mut self, hostname: Option<&'h Hostname>) -> u32 {
        *self.numbers.entry(hostname).or_insert_with(|| {
            self.hosts.push((hostname, HostBuilder::default()));
            u32::try_from(self.hosts.len() - 1).expect("there is no memory for 2^32 hostnames")
        })
    }
}
