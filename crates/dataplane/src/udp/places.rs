//! How many sessions there may be, shared out among the listeners.
//!
//! Each session has a port of the machine's ephemeral range, about 28,000 by default, so what one listener takes all others lack. Half
//! of the places are guaranteed, the same number to each listener; the other half is lent to whoever needs more. So a flood at some
//! listeners leaves the others what they are guaranteed, and a busy listener among idle ones is not held to its part.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Limits;

/// The places of all listeners.
#[derive(Debug)]
pub(crate) struct Places {
    all: usize,
    listener: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Listeners that have a share.
    listeners: usize,
    /// Places that are lent to them.
    lent: usize,
}

/// The places of one listener, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    places: Arc<Places>,
    lent: usize,
}

impl Places {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self { all: limits.udp_all_sessions, listener: limits.udp_sessions, state: Mutex::default() })
    }

    /// The share of one more listener. What the others are guaranteed becomes less.
    pub(crate) fn share(self: &Arc<Self>) -> Share {
        self.lock().listeners += 1;
        Share { places: self.clone(), lent: 0 }
    }

    fn guaranteed(&self, state: &State) -> usize {
        self.all / 2 / state.listeners.max(1)
    }

    fn left(&self, state: &State) -> usize {
        (self.all - self.guaranteed(state) * state.listeners).saturating_sub(state.lent)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Whether there is a place for one more than these sessions.
    pub(super) fn take(&mut self, sessions: usize) -> bool {
        if sessions >= self.places.listener {
            return false;
        }
        let mut state = self.places.lock();
        let wanted = (sessions + 1).saturating_sub(self.places.guaranteed(&state)).saturating_sub(self.lent);
        let granted = wanted <= self.places.left(&state);
        if granted {
            state.lent += wanted;
            self.lent += wanted;
        }
        granted
    }

    /// Gives back what is not needed for these sessions. Says how many of them have no place any more, because others have got a share
    /// meanwhile.
    pub(super) fn settle(&mut self, sessions: usize) -> usize {
        let mut state = self.places.lock();
        let wanted = sessions.saturating_sub(self.places.guaranteed(&state));
        state.lent -= self.lent;
        self.lent = wanted.min(self.places.left(&state));
        state.lent += self.lent;
        wanted - self.lent
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.places.lock();
        state.listeners -= 1;
        state.lent -= self.lent;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(all: usize, listener: usize) -> Arc<Places> {
        Places::new(&Limits { udp_all_sessions: all, udp_sessions: listener, ..Limits::default() })
    }

    /// Takes as much as it gets.
    fn fill(share: &mut Share, mut sessions: usize) -> usize {
        while share.take(sessions) {
            sessions += 1;
        }
        sessions
    }

    #[test]
    fn listeners_that_take_all_leave_the_others_their_part() {
        for (listeners, expected) in [
            (1, &[10][..]),
            (2, &[10, 10]),
            (3, &[10, 7, 3]),
            // Five for each, and ten that are lent.
            (4, &[10, 6, 2, 2]),
            (10, &[10, 2, 1, 1, 1, 1, 1, 1, 1, 1]),
        ] {
            let places = places(20, 10);
            let mut shares: Vec<_> = (0..listeners).map(|_| places.share()).collect();
            let taken: Vec<_> = shares.iter_mut().map(|share| fill(share, 0)).collect();
            assert_eq!(taken, expected);
        }
    }

    #[test]
    fn what_is_not_needed_goes_to_others() {
        let places = places(20, 20);
        let (mut first, mut second) = (places.share(), places.share());
        assert_eq!((fill(&mut first, 0), fill(&mut second, 0)), (15, 5));
        assert_eq!(first.settle(7), 0);
        assert_eq!(fill(&mut second, 5), 13);
        drop(first);
        assert_eq!(fill(&mut second, 13), 20);
        let mut third = places.share();
        assert_eq!((second.settle(20), fill(&mut third, 0)), (5, 5), "a new one has its part at once");
        assert!(!second.take(19), "there is no place until as many have ended");
        assert!(second.take(14));
    }

    proptest! {
        #[test]
        fn no_more_places_are_given_than_there_are(steps in proptest::collection::vec((0..5_usize, 0..5_u8), 1..300)) {
            let places = places(23, 9);
            let mut listeners: Vec<Option<(Share, usize)>> = vec![None, None, None, None, None];
            for (number, step) in steps {
                match (&mut listeners[number], step) {
                    (None, _) => listeners[number] = Some((places.share(), 0)),
                    (gone, 0) => *gone = None,
                    (Some((share, sessions)), 1) => *sessions -= share.settle(*sessions).min(*sessions),
                    (Some((_, sessions)), 2) => *sessions = sessions.saturating_sub(3),
                    (Some((share, sessions)), _) => *sessions += usize::from(share.take(*sessions)),
                }
                let lent: usize = listeners.iter().flatten().map(|(share, _)| share.lent).sum();
                prop_assert_eq!(places.lock().lent, lent);
                prop_assert_eq!(places.lock().listeners, listeners.iter().flatten().count());
            }
            // Lent in an earlier order of things; all right again once everybody has settled.
            for _ in 0..2 {
                for (share, sessions) in listeners.iter_mut().flatten() {
                    *sessions -= share.settle(*sessions).min(*sessions);
                }
            }
            prop_assert!(listeners.iter().flatten().map(|(_, sessions)| sessions).sum::<usize>() <= 23);
        }
    }
}
