//! The lengths of the keys of a table.

/// The lengths of the keys of a table, each once, longest first. A look-up that may cut its text at many places asks the table
/// only for cuts of these lengths, so that what it costs depends on the configuration and not on a client's text.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lengths(Vec<usize>);

impl Lengths {
    pub(crate) fn note(&mut self, length: usize) {
        if let Err(at) = self.0.binary_search_by(|probe| length.cmp(probe)) {
            self.0.insert(at, length);
        }
    }

    pub(crate) fn contains(&self, length: usize) -> bool {
        self.0.binary_search_by(|probe| length.cmp(probe)).is_ok()
    }

    /// Those that are at most `limit`, longest first.
    pub(crate) fn up_to(&self, limit: usize) -> impl Iterator<Item = usize> {
        self.0.iter().copied().skip_while(move |&length| length > limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_once_longest_first() {
        let mut lengths = Lengths::default();
        [3, 0, 7, 3, 5, 7].iter().for_each(|&length| lengths.note(length));
        assert_eq!(lengths.up_to(9).collect::<Vec<_>>(), [7, 5, 3, 0]);
        assert_eq!(lengths.up_to(5).collect::<Vec<_>>(), [5, 3, 0]);
        assert_eq!(lengths.up_to(0).collect::<Vec<_>>(), [0]);
        assert!(lengths.contains(0) && lengths.contains(5) && !lengths.contains(4));
    }
}
