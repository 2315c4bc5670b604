//! What a proxy was sent and what it has answered.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use isthmus_routing::Version;
use tokio::sync::Notify;

use super::published::Edition;

/// Versions that were sent and not answered, oldest first, each as the proxy knows it and as it was published.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    versions: Mutex<Versions>,
    fewer: Notify,
}

#[derive(Debug, Default)]
struct Versions {
    sent: VecDeque<(Version, Edition)>,
    /// The last one that was refused; it may be served later all the same.
    refused: Option<(Version, Edition)>,
}

/// What a proxy has said of the last version that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// It serves it.
    Served,
    /// It goes on with the one before.
    Refused,
}

impl Unanswered {
    fn versions(&self) -> MutexGuard<'_, Versions> {
        self.versions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn sent(&self, version: Version, edition: Edition) {
        self.versions().sent.push_back((version, edition));
    }

    /// What was sent last is of this publication, too. Returns what the proxy has said of it already.
    pub(super) fn also(&self, edition: Edition) -> Option<Answer> {
        let mut versions = self.versions();
        let Versions { sent, refused } = &mut *versions;
        match (sent.back_mut(), refused) {
            (Some((_, last)), _) => {
                *last = edition;
                None
            }
            (None, Some((_, last))) => {
                *last = edition;
                Some(Answer::Refused)
            }
            (None, None) => Some(Answer::Served),
        }
    }

    /// Waits until there are fewer than `most`. Cancel safe.
    pub(super) async fn room(&self, most: usize) {
        while self.versions().sent.len() >= most {
            self.fewer.notified().await;
        }
    }

    /// The publication that is served, if that is news.
    pub(super) fn acked(&self, version: Version) -> Option<Edition> {
        let mut versions = self.versions();
        let acked = versions.answered(version).or_else(|| versions.refused.filter(|(refused, _)| *refused == version))?;
        versions.refused = None;
        drop(versions);
        self.fewer.notify_one();
        Some(acked.1)
    }

    /// The publication that is not served.
    pub(super) fn nacked(&self, version: Version) -> Option<Edition> {
        let mut versions = self.versions();
        let nacked = versions.answered(version)?;
        versions.refused = Some(nacked);
        drop(versions);
        self.fewer.notify_one();
        Some(nacked.1)
    }
}

impl Versions {
    /// The last that was sent under this name. What was sent before it is answered, too.
    fn answered(&mut self, version: Version) -> Option<(Version, Edition)> {
        let position = self.sent.iter().rposition(|(sent, _)| *sent == version)?;
        self.sent.drain(..=position).next_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::snapshot;

    #[test]
    fn an_answer_is_about_the_last_version_of_that_name_and_all_before() {
        let (a, b, c) = (snapshot(1).version(), snapshot(2).version(), snapshot(3).version());
        let unanswered = Unanswered::default();
        for (version, published) in [(a, a), (b, b), (a, c), (b, a)] {
            unanswered.sent(version, Edition::Gateway(published));
        }
        assert_eq!(unanswered.acked(a), Some(Edition::Gateway(c)));
        assert_eq!(unanswered.versions().sent.len(), 1);
        assert_eq!(unanswered.acked(a), None, "answered already");
        assert_eq!(unanswered.nacked(b), Some(Edition::Gateway(a)));
        assert_eq!(unanswered.nacked(b), None, "refused already");
        assert_eq!(unanswered.acked(c), None, "never sent");
        assert_eq!((unanswered.acked(b), unanswered.acked(b)), (Some(Edition::Gateway(a)), None), "served after all");
    }

    #[test]
    fn what_was_sent_may_be_of_several_publications() {
        let (a, b) = (snapshot(1).version(), snapshot(2).version());
        let unanswered = Unanswered::default();
        unanswered.sent(a, Edition::Mesh(1));
        assert_eq!(unanswered.also(Edition::Mesh(2)), None);
        assert_eq!(unanswered.acked(a), Some(Edition::Mesh(2)), "an answer is about the newest of them");
        assert_eq!(unanswered.also(Edition::Mesh(3)), Some(Answer::Served));
        unanswered.sent(b, Edition::Mesh(4));
        assert_eq!(unanswered.nacked(b), Some(Edition::Mesh(4)));
        assert_eq!(unanswered.also(Edition::Mesh(5)), Some(Answer::Refused));
        assert_eq!(unanswered.acked(b), Some(Edition::Mesh(5)), "served after all");
        assert_eq!(unanswered.also(Edition::Mesh(6)), Some(Answer::Served));
    }
}
