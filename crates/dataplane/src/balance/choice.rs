//! The power of two choices, as a pure function.

/// The position with the lesser load of two different ones that `draw` picks out of `0..count` without `tried`; with all of them once all
/// are tried. `draw(n)` gives a number below `n`. None if `count` is 0.
pub(super) fn least_of_two(
    count: usize,
    tried: &[usize],
    load: impl Fn(usize) -> usize,
    mut draw: impl FnMut(usize) -> usize,
) -> Option<usize> {
    let (excluded, left): (&[usize], _) = match count.checked_sub(tried.len()) {
        Some(0) | None => (&[], count),
        Some(left) => (tried, left),
    };
    match left {
        0 => return None,
        1 => return nth_free(count, excluded, 0),
        _ => {}
    }
    let first = draw(left);
    // Another one: drawn out of one less, moved past the first.
    let second = draw(left - 1);
    let second = if second < first { second } else { second + 1 };
    let (first, second) = (nth_free(count, excluded, first)?, nth_free(count, excluded, second)?);
    Some(if load(second) < load(first) { second } else { first })
}

/// The n-th of `0..count` that is not excluded.
fn nth_free(count: usize, excluded: &[usize], n: usize) -> Option<usize> {
    if excluded.is_empty() {
        return Some(n);
    }
    (0..count).filter(|position| !excluded.contains(position)).nth(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lesser_load_of_two_different_ones_wins() {
        for (tried, draws, chosen) in [
            (&[][..], [0, 0], 1),
            (&[], [1, 0], 1),
            (&[], [3, 2], 2),
            (&[], [2, 2], 2),
            (&[1], [0, 0], 2),
            (&[1, 2], [0, 0], 3),
            (&[1, 2], [1, 0], 3),
            (&[0, 1, 2], [9, 9], 3),
            (&[3, 0, 2, 1], [0, 0], 1),
        ] {
            let loads = [9, 1, 2, 5];
            let mut draws = draws.into_iter();
            let found = least_of_two(4, tried, |i| loads[i], |_| draws.next().expect("two draws"));
            assert_eq!(found, Some(chosen), "{tried:?}");
        }
        assert_eq!(least_of_two(0, &[], |_| 0, |_| 0), None);
        assert_eq!(least_of_two(1, &[0], |_| 0, |_| 0), Some(0));
    }

    #[test]
    fn every_pair_of_different_ones_is_as_likely() {
        let mut pairs = std::collections::BTreeMap::new();
        for first in 0..4 {
            for second in 0..3 {
                let mut draws = [first, second].into_iter();
                let seen = std::cell::RefCell::new(Vec::new());
                let load = |i| {
                    seen.borrow_mut().push(i);
                    0
                };
                least_of_two(4, &[], load, |_| draws.next().expect("two draws"));
                *pairs.entry(seen.into_inner()).or_insert(0) += 1;
            }
        }
        assert_eq!(pairs.len(), 12);
        assert!(pairs.iter().all(|(pair, count)| pair[0] != pair[1] && *count == 1), "{pairs:?}");
    }
}
