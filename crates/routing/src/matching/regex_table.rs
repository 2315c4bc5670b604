//! Regular expressions on paths, searched for all at once.

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};

use super::candidate::Candidate;
use crate::value::Pattern;

/// Up to so many expressions are tried one after the other, which is as quick as a search for all of them and needs no memory.
const FEW: usize = 4;

/// The memory that expressions may take when they are compiled together. Beyond it they are tried one after the other.
const COMBINED_SIZE_LIMIT: usize = 32 * 1024 * 1024;

/// Candidates that are found by an expression.
#[derive(Debug, Default)]
pub(super) struct RegexTable {
    /// In the order of precedence, each with the number of its expression.
    ranked: Vec<(usize, Candidate)>,
    /// Each once, in the order of the best candidate that it finds.
    patterns: Vec<Pattern>,
    combined: Option<Combined>,
}

/// All expressions in one automaton: a search reads the path once, however many there are.
#[derive(Debug)]
struct Combined {
    /// Finds the first of the expressions that match, because all are tied to both ends of the text and "leftmost first" then
    /// prefers the one that was given first.
    first: Regex,
    /// The best candidate of each expression.
    best: Vec<Candidate>,
    /// Finds all expressions that match. Needed only if there are candidates with conditions: when the best one does not pass,
    /// another one may.
    all: Option<regex::RegexSet>,
}

impl RegexTable {
    /// To be called in the order of precedence.
    pub(super) fn add(&mut self, pattern: &Pattern, candidate: Candidate) {
        // Expressions of one length follow each other, so an equal one is near the end. If it is not found, it is searched for
        // twice, which is no fault.
        let near = self.patterns.len().saturating_sub(64);
        let known = self.patterns[near..].iter().position(|known| known == pattern);
        let number = known.map_or(self.patterns.len(), |at| near + at);
        if known.is_none() {
            self.patterns.push(pattern.clone());
        }
        self.ranked.push((number, candidate));
    }

    /// To be called when all have been added.
    pub(super) fn combine(&mut self) {
        if self.patterns.len() > FEW {
            self.combined = Combined::new(&self.patterns, &self.ranked);
        }
    }

    /// The candidate with the highest precedence of those whose expressions match and that pass.
    pub(super) fn find(&self, path: &str, passes: impl Fn(&Candidate) -> bool) -> Option<Candidate> {
        let Some(combined) = &self.combined else {
            let found = self.ranked.iter().find(|(number, candidate)| {
                (!candidate.conditional || passes(candidate)) && self.patterns[*number].is_match(path)
            });
            return found.map(|(_, candidate)| *candidate);
        };
        let number = combined.first.search_half(&Input::new(path).anchored(Anchored::Yes))?.pattern();
        let best = combined.best[number.as_usize()];
        if passes(&best) {
            return Some(best);
        }
        let matching = combined.all.as_ref()?.matches(path);
        let found = self.ranked.iter().find(|(number, candidate)| matching.matched(*number) && passes(candidate));
        found.map(|(_, candidate)| *candidate)
    }
}

impl Combined {
    /// `None` if they take too much memory together.
    fn new(patterns: &[Pattern], ranked: &[(usize, Candidate)]) -> Option<Self> {
        let texts: Vec<&str> = patterns.iter().map(Pattern::anchored).collect();
        let config = Regex::config().nfa_size_limit(Some(COMBINED_SIZE_LIMIT));
        let first = Regex::builder().configure(config).build_many(&texts).ok()?;
        let mut best = Vec::with_capacity(patterns.len());
        for (number, candidate) in ranked {
            if *number == best.len() {
                best.push(*candidate);
            }
        }
        let all = if best.iter().any(|candidate| candidate.conditional) {
            Some(regex::RegexSetBuilder::new(&texts).size_limit(COMBINED_SIZE_LIMIT).build().ok()?)
        } else {
            None
        };
        Some(Self { first, best, all })
    }
}
