//! Matches of HTTPRoutes, by path.

use super::candidate::{Candidate, Routes};
use super::path_index::{Kind, PathIndex};
use super::regex_table::RegexTable;
use super::{HttpMatch, PathMatch, Request};
use crate::lengths::Lengths;
use crate::path;

/// The matches of all HTTPRoutes of a listener, except those with regular expressions.
#[derive(Debug, Default)]
pub(super) struct HttpTable {
    index: PathIndex,
    shapes: Vec<Shape>,
}

/// The lengths of the paths that a hostname has. Mostly many hostnames have the same, so each is kept only once.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shape {
    exact: Lengths,
    prefix: Lengths,
}

/// What is particular to one hostname.
#[derive(Debug)]
pub(super) struct HttpHost {
    /// Its number in the index.
    number: u32,
    /// The place of its shape.
    shape: u32,
    regex: Option<Box<RegexTable>>,
}

/// A hostname while matches are added.
#[derive(Debug, Default)]
pub(super) struct HttpHostBuilder {
    shape: Shape,
    regex: Option<Box<RegexTable>>,
}

impl HttpHostBuilder {
    /// To be called in the order of precedence.
    pub(super) fn add(&mut self, number: u32, asked: &HttpMatch, candidate: Candidate, table: &mut HttpTable) {
        match &asked.path {
            PathMatch::Exact(path) => {
                let path = path::exact_of(path);
                self.shape.exact.note(path.len());
                table.index.add(number, Kind::Exact, &path, candidate);
            }
            PathMatch::Regex(pattern) => self.regex.get_or_insert_default().add(pattern, candidate),
            PathMatch::Prefix(prefix) => {
                let prefix = path::prefix_of(prefix);
                self.shape.prefix.note(prefix.len());
                table.index.add(number, Kind::Prefix, &prefix, candidate);
            }
        }
    }

    pub(super) fn finish(self, number: u32, shapes: &mut Shapes) -> HttpHost {
        let regex = self.regex.map(|mut regex| {
            regex.combine();
            regex
        });
        HttpHost { number, shape: shapes.place(self.shape), regex }
    }
}

/// Shapes by their place, while hostnames are finished.
#[derive(Debug, Default)]
pub(super) struct Shapes(std::collections::BTreeMap<Shape, u32>);

impl Shapes {
    fn place(&mut self, shape: Shape) -> u32 {
        let next = u32::try_from(self.0.len()).expect("there are fewer shapes than hostnames");
        *self.0.entry(shape).or_insert(next)
    }

    pub(super) fn finish(self, table: &mut HttpTable) {
        let mut placed: Vec<_> = self.0.into_iter().collect();
        placed.sort_by_key(|(_, place)| *place);
        table.shapes = placed.into_iter().map(|(shape, _)| shape).collect();
    }
}

impl HttpTable {
    /// The best match, and for a prefix how many bytes of the path it is. The order of the look-ups is that of
    /// [`super::precedence::PathRank`], so the first candidate that passes is the one with the highest precedence.
    pub(super) fn find(&self, host: &HttpHost, request: &Request<'_>, routes: &Routes) -> Option<(Candidate, Option<usize>)> {
        let passes = |candidate: &Candidate| {
            !candidate.conditional || routes.http(candidate).is_some_and(|asked| asked.conditions_hold(request))
        };
        let (path, shape) = (request.path, &self.shapes[host.shape as usize]);
        if shape.exact.contains(path.len())
            && let Some(found) = self.index.find(host.number, Kind::Exact, path, passes)
        {
            return Some((found, None));
        }
        if let Some(found) = host.regex.as_ref().and_then(|regex| regex.find(path, passes)) {
            return Some((found, None));
        }
        shape.prefix.up_to(path.len()).find_map(|length| {
            let ends_an_element = length == 0 || matches!(path.as_bytes().get(length), None | Some(b'/'));
            let prefix = if ends_an_element { &path[..length] } else { return None };
            self.index.find(host.number, Kind::Prefix, prefix, passes).map(|found| (found, Some(length)))
        })
    }
}

impl HttpMatch {
    /// Whether all but the path holds.
    fn conditions_hold(&self, request: &Request<'_>) -> bool {
        self.method.as_ref().is_none_or(|method| method.as_http() == request.method)
            && self.headers.iter().all(|header| header.holds(request.headers))
            && self.query.iter().all(|param| param.holds(request.query))
    }
}
