//! Sets of seqs as ranges, in order, apart from one another. What came without holes is one range, however much it is.

/// From the first up to before the second.
pub type Range = (i64, i64);

/// So many seqs.
pub fn count(ranges: &[Range]) -> i64 {
    ranges.iter().map(|(first, next)| next - first).sum()
}

/// Each seq of them.
pub fn seqs(ranges: &[Range]) -> impl Iterator<Item = i64> {
    ranges.iter().flat_map(|(first, next)| *first..*next)
}

/// What the first has and the second does not.
pub fn minus(of: &[Range], what: &[Range]) -> Vec<Range> {
    let (mut left, mut at) = (Vec::new(), 0);
    for (first, next) in of.iter().copied() {
        let mut first = first;
        while let Some((begin, end)) = what.get(at).copied() {
            if begin >= next {
                break;
            }
            if begin > first {
                left.push((first, begin));
            }
            first = first.max(end);
            // It may reach into the next one too.
            if end > next {
                break;
            }
            at += 1;
        }
        if first < next {
            left.push((first, next));
        }
    }
    left
}

/// Seqs that were found, a heap of them at a time.
#[derive(Debug, Default)]
pub struct Found {
    ranges: Vec<Range>,
    heap: Vec<i64>,
    doubled: Vec<i64>,
}

impl Found {
    /// Some more, in any order.
    pub fn add(&mut self, seqs: &[i64]) {
        self.heap.extend_from_slice(seqs);
    }

    /// The heap becomes ranges.
    pub fn settle(&mut self) {
        if self.heap.is_empty() {
            return;
        }
        self.heap.sort_unstable();
        let mut sorted = std::mem::take(&mut self.ranges);
        sorted.extend(std::mem::take(&mut self.heap).into_iter().map(|seq| (seq, seq + 1)));
        // Two runs in order, one behind the other: a stable sort merges them.
        sorted.sort();
        for (first, next) in sorted {
            match self.ranges.last_mut() {
                Some((_, end)) if first <= *end => {
                    self.doubled.extend(first..next.min(*end));
                    *end = next.max(*end);
                }
                _ => self.ranges.push((first, next)),
            }
        }
    }

    /// All of them, and those that were found more than once.
    pub fn finish(mut self) -> (Vec<Range>, Vec<i64>) {
        self.settle();
        self.doubled.sort_unstable();
        self.doubled.dedup();
        (self.ranges, self.doubled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_in_pieces_is_found_once() {
        let mut found = Found::default();
        found.add(&[5, 3, 4]);
        found.add(&[9]);
        found.settle();
        found.add(&[0, 6, 9, 2, 2]);
        assert_eq!(found.finish(), (vec![(0, 1), (2, 7), (9, 10)], vec![2, 9]));
    }

    #[test]
    fn differences_are_those_of_sets() {
        let sets: Vec<Vec<Range>> = (0..64u32)
            .map(|bits| {
                let mut found = Found::default();
                found.add(&(0..6).filter(|at| bits >> at & 1 == 1).collect::<Vec<_>>());
                found.finish().0
            })
            .collect();
        for (a, of) in sets.iter().enumerate() {
            for (b, what) in sets.iter().enumerate() {
                let left = minus(of, what);
                assert!(seqs(&left).eq((0..6).filter(|at| (a & !b) >> at & 1 == 1)), "{of:?} {what:?} {left:?}");
                assert_eq!(count(&left), i64::from((a & !b).count_ones()));
            }
        }
    }
}
