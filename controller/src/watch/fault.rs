//! What goes wrong between us and the API server, in words that say what to do; and how long to wait.

use std::time::Duration;

use isthmus_api::Kind;
use kube::Error;
use kube::core::Status;

use super::resource::full_name;

/// The HTTP status that the API server answered with; none if there was no answer.
pub(crate) fn code(error: &Error) -> Option<u16> {
    match error {
        Error::Api(status) => Some(status.code),
        _ => None,
    }
}

/// How long the API server asks us to wait.
pub(crate) fn retry_after(error: &Error) -> Option<Duration> {
    let Error::Api(status) = error else { return None };
    let seconds = status.details.as_ref()?.retry_after_seconds;
    (seconds > 0).then(|| Duration::from_secs(u64::from(seconds.min(60))))
}

/// What failed, for people. `verbs` are those that the request needs, for instance `list and watch`.
pub(crate) fn describe(error: &Error, verbs: &str, kind: Kind, namespace: Option<&str>) -> String {
    match error {
        Error::Api(status) => describe_status(status, verbs, kind, namespace),
        Error::Service(source) => format!("the API server cannot be reached: {}", chain(source.as_ref())),
        Error::HyperError(source) => format!("the connection to the API server broke: {}", chain(source)),
        Error::ReadEvents(source) => format!("the connection to the API server broke: {}", chain(source)),
        Error::SerdeError(source) => format!("the API server's answer is not what it should be: {source}"),
        other => chain(other),
    }
}

/// [`describe`] for an answer of the API server.
pub(crate) fn describe_status(status: &Status, verbs: &str, kind: Kind, namespace: Option<&str>) -> String {
    let name = full_name(kind);
    match (status.code, namespace) {
        (401, _) => "the API server does not know us (401): the ServiceAccount's token is missing or expired".to_owned(),
        (403, None) => format!(
            "forbidden: the controller's ClusterRole lacks the verb {verbs} for `{name}`; the API server says: {}",
            status.message
        ),
        (403, Some(namespace)) => format!(
            "forbidden: the controller's Role in namespace {namespace} lacks the verb {verbs} for `{name}`; the API server says: {}",
            status.message
        ),
        (404, _) if status.message.is_empty() => "not found (404)".to_owned(),
        (code, _) => {
            format!("the API server says {code}: {}", if status.message.is_empty() { &status.reason } else { &status.message })
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Waits that double, each between half and all of its length, so that many clients do not come back at once.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    first: Duration,
    last: Duration,
    failures: u32,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, failures: 0 }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let wait = self.first.saturating_mul(1 << self.failures.min(20)).min(self.last);
        self.failures = self.failures.saturating_add(1);
        wait.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Failures since the last success.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// All is well.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_what_to_do() {
        let status = |code: u16, message: &str| Error::Api(Box::new(Status::failure(message, "Reason").with_code(code)));
        for (error, namespace, expected) in [
            (
                status(403, "no"),
                None,
                "forbidden: the controller's ClusterRole lacks the verb list for `httproutes.gateway.networking.k8s.io`; the API server says: no",
            ),
            (
                status(403, "no"),
                Some("shop"),
                "forbidden: the controller's Role in namespace shop lacks the verb list for `httproutes.gateway.networking.k8s.io`; the API server says: no",
            ),
            (status(500, "etcd"), None, "the API server says 500: etcd"),
            (status(503, ""), None, "the API server says 503: Reason"),
            (Error::Service(std::io::Error::other("refused").into()), None, "the API server cannot be reached: refused"),
        ] {
            assert_eq!(describe(&error, "list", Kind::HttpRoute, namespace), expected);
        }
    }

    #[test]
    fn waits_double_up_to_the_last() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for expected in [100, 200, 400, 800, 1000, 1000] {
            let wait = backoff.next().as_millis();
            assert!((expected / 2..=expected).contains(&wait), "{wait} of {expected}");
        }
        backoff.reset();
        assert!(backoff.next().as_millis() <= 100);
    }
}
