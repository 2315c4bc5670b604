//! The line of a connection without HTTP.

use super::{Scratch, millis_of};
use crate::telemetry::stream::{StreamRecord, StreamSummary};

impl Scratch {
    /// The keys that a request has too mean the same; what only requests have is left out.
    pub(super) fn format_stream(&mut self, record: &StreamRecord, summary: &StreamSummary) {
        self.begin(record.start_time);
        self.remember_version(Some(record.config_version));
        let Self { line, version_text, .. } = self;
        line.text("protocol", Some(record.protocol.as_bytes()));
        line.flags("response_flags", summary.end.flags());
        line.number("bytes_received", Some(summary.received));
        line.number("bytes_sent", Some(summary.sent));
        line.number("duration", Some(millis_of(summary.duration)));
        line.text("server_name", record.server_name.as_deref().map(str::as_bytes));
        line.address("upstream_host", record.endpoint);
        line.address("downstream_remote_address", Some(record.client));
        line.address("downstream_local_address", Some(record.local));
        line.text("client_certificate", record.client_certificate.as_deref().map(str::as_bytes));
        line.routed(record.rule.as_deref(), Some(&record.listener), record.backend);
        line.number("attempts", Some(u64::from(record.attempts)));
        line.text("config_version", Some(version_text.as_bytes()));
        line.bytes.extend_from_slice(b"}\n");
    }
}
