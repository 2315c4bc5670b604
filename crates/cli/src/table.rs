//! What a person sees: what listens where, which route leads where, what is not good. Pure.

mod rules;
mod services;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use isthmus_dataplane::{ListenerReport, Report};
use isthmus_routing::{GatewayKey, Listener, Protocol};

use crate::hints;
use crate::message::Severity;
use crate::standalone::View;
use crate::statuses;

/// How a line looks on a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// The name of a section.
    Heading,
    /// Something is not in force.
    Bad,
    /// Something to look at.
    Warning,
    /// By the way.
    Dim,
    /// Something to try.
    Hint,
}

/// A line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How it looks.
    pub style: Style,
    /// Without an end.
    pub text: String,
}

/// More than this of one section is counted instead of shown.
const MOST: usize = 60;

/// The table. Without a report nothing listens, and no word is lost on that.
pub fn render(view: &View, report: Option<&Report>) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(report) = report {
        section(&mut lines, "LISTENING", 0, listeners(view, report));
        section(&mut lines, "SERVICES", 0, services::rows(view, report));
    }
    let (rows, more) = rules::rows(view, MOST);
    section(&mut lines, "ROUTES", more, rows.into_iter().map(|text| Line { style: Style::Plain, text }).collect());
    let problems = statuses::problems(&view.statuses);
    section(
        &mut lines,
        "NOT GOOD",
        0,
        problems.iter().map(|problem| Line { style: Style::Bad, text: problem.at(&view.origins) }).collect(),
    );
    let messages = view.messages.iter().map(|message| Line {
        style: match message.severity {
            Severity::Fault => Style::Bad,
            Severity::Warning => Style::Warning,
            Severity::Notice => Style::Dim,
        },
        text: message.to_string(),
    });
    section(&mut lines, "MESSAGES", 0, messages.collect());
    if let Some(report) = report {
        let hints = hints::hints(view, report);
        section(&mut lines, "TRY", 0, hints.into_iter().map(|text| Line { style: Style::Hint, text }).collect());
    }
    lines
}

impl Line {
    /// With the escapes of a terminal.
    pub fn colored(&self) -> String {
        let code = match self.style {
            Style::Plain | Style::Hint => return self.text.clone(),
            Style::Heading => "1",
            Style::Bad => "31",
            Style::Warning => "33",
            Style::Dim => "2",
        };
        format!("\x1b[{code}m{}\x1b[0m", self.text)
    }
}

/// Rows with their cells below each other.
pub fn columns(rows: &[Vec<String>]) -> Vec<String> {
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// `more` rows were left out before.
fn section(lines: &mut Vec<Line>, title: &str, more: usize, rows: Vec<Line>) {
    if rows.is_empty() {
        return;
    }
    if !lines.is_empty() {
        lines.push(Line { style: Style::Plain, text: String::new() });
    }
    lines.push(Line { style: Style::Heading, text: title.to_owned() });
    let hidden = more + rows.len().saturating_sub(MOST);
    lines.extend(rows.into_iter().take(MOST).map(|line| Line { text: format!("  {}", line.text), ..line }));
    if hidden > 0 {
        lines.push(Line { style: Style::Dim, text: format!("  ... and {hidden} more") });
    }
}

fn listeners(view: &View, report: &Report) -> Vec<Line> {
    let mut rows = Vec::new();
    let mut styles = Vec::new();
    let found: BTreeMap<_, _> =
        report.listeners.iter().map(|found| ((&found.gateway, found.name.as_str(), found.address), found)).collect();
    for (key, gateway) in &view.snapshot.gateways {
        for listener in &gateway.listeners {
            for address in &gateway.addresses {
                let socket = SocketAddr::new(*address, listener.socket_port());
                let (style, state) = state(listener, found.get(&(key, listener.name.as_str(), socket)).copied());
                rows.push(row(key, listener, socket, &state));
                styles.push(style);
            }
        }
    }
    if rows.is_empty() && !report.services.is_empty() {
        // Clients in the mesh have something to call.
        return Vec::new();
    }
    if rows.is_empty() {
        return vec![Line { style: Style::Warning, text: "nothing".to_owned() }];
    }
    styles.into_iter().zip(columns(&rows)).map(|(style, text)| Line { style, text }).collect()
}

fn row(key: &GatewayKey, listener: &Listener, socket: SocketAddr, state: &str) -> Vec<String> {
    let scheme = listener.protocol.as_str().to_ascii_lowercase();
    let hosts = match (listener.protocol, &listener.hostname) {
        (Protocol::Tcp | Protocol::Udp, _) => "any client".to_owned(),
        (_, None) => "any host".to_owned(),
        (_, Some(hostname)) => hostname.to_string(),
    };
    let routes = match listener.routes.len() {
        1 => "1 route".to_owned(),
        count => format!("{count} routes"),
    };
    vec![format!("{scheme}://{socket}"), key.to_string(), listener.name.clone(), hosts, routes, state.to_owned()]
}

fn state(listener: &Listener, found: Option<&ListenerReport>) -> (Style, String) {
    let tls = match (listener.passthrough, &listener.client_validation) {
        (true, _) => "TLS goes on to the backend",
        (false, Some(validation)) if validation.optional => "client certificates are asked for",
        (false, Some(_)) => "client certificates are required",
        (false, None) => "",
    };
    match found.map(|found| found.fault.as_deref()) {
        None => (Style::Warning, "opening".to_owned()),
        Some(None) => (Style::Plain, tls.to_owned()),
        Some(Some(fault)) => (Style::Bad, format!("NOT OPEN: {fault}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let rows = [
            vec!["a".to_owned(), "b".to_owned()],
            vec!["ccc".to_owned(), "ü".to_owned(), "d".to_owned()],
            vec!["".to_owned(), "long".to_owned(), "e".to_owned()],
        ];
        assert_eq!(columns(&rows), ["a    b", "ccc  ü     d", "     long  e"]);
    }

    #[test]
    fn long_sections_are_cut() {
        let mut lines = Vec::new();
        section(&mut lines, "EMPTY", 0, vec![]);
        assert!(lines.is_empty());
        section(&mut lines, "LONG", 3, (0..MOST + 2).map(|n| Line { style: Style::Plain, text: n.to_string() }).collect());
        assert_eq!(lines.len(), 1 + MOST + 1);
        assert_eq!(lines.last().unwrap().text, "  ... and 5 more");
    }
}
