//! What clients in the mesh call: each Service port with its address here and what it is routed by.

use isthmus_dataplane::{Report, ServiceReport};

use super::{Line, Style, columns};
use crate::standalone::View;

/// One row for each Service port on each of its addresses.
pub(super) fn rows(view: &View, report: &Report) -> Vec<Line> {
    let (mut rows, mut styles) = (Vec::new(), Vec::new());
    for found in &report.services {
        let (style, state) = match &found.fault {
            None => (Style::Plain, String::new()),
            Some(fault) => (Style::Bad, format!("NOT OPEN: {fault}")),
        };
        rows.push(vec![format!("http://{}", found.address), found.service.to_string(), routes(view, found), state]);
        styles.push(style);
    }
    styles.into_iter().zip(columns(&rows)).map(|(style, text)| Line { style, text }).collect()
}

/// What decides for the clients there are.
fn routes(view: &View, found: &ServiceReport) -> String {
    let namespace = view.client_namespace.as_deref().unwrap_or_default();
    let Some(parent) = view.snapshot.services.get(&found.service) else { return String::new() };
    let whose =
        if parent.consumers.contains_key(namespace) { format!("consumer routes of {namespace}") } else { "routes".to_owned() };
    match parent.routes_for(namespace).len() {
        0 => "no routes: its endpoints".to_owned(),
        1 => format!("1 {}", whose.replacen("routes", "route", 1)),
        count => format!("{count} {whose}"),
    }
}
