//! An address space cut into steps: from each start on, a value holds until the next start.
//!
//! Everything that a source says ends up as steps, and the table is steps too. Nested networks become steps by
//! [`flatten`]: the longest prefix decides, or what the caller makes of the longer and the shorter one.

use std::net::IpAddr;

use ipnet::IpNet;

/// IPv4 or IPv6. Addresses of both are handled as `u128`, IPv4 in the low 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    /// The last address.
    pub(crate) fn last(self) -> u128 {
        match self {
            Family::V4 => u128::from(u32::MAX),
            Family::V6 => u128::MAX,
        }
    }

    pub(crate) fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

/// An address as a number.
pub(crate) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address with this number.
pub(crate) fn address(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4((number as u32).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

/// Addresses `start..=end` have a value.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) start: u128,
    pub(crate) end: u128,
    pub(crate) value: u32,
}

impl Range {
    /// All addresses of a network.
    pub(crate) fn of(network: IpNet, value: u32) -> Range {
        Range { start: number(network.network()), end: number(network.broadcast()), value }
    }
}

/// Steps of one family; value 0 means that nothing is known. Ascending, neighbours differ.
#[derive(Debug)]
pub(crate) struct Steps {
    starts: Starts,
    values: Vec<u32>,
}

#[derive(Debug)]
enum Starts {
    V4(Vec<u32>),
    V6(Vec<u128>),
}

impl Steps {
    /// Nothing is known anywhere.
    pub(crate) fn new(family: Family) -> Steps {
        let starts = match family {
            Family::V4 => Starts::V4(Vec::new()),
            Family::V6 => Starts::V6(Vec::new()),
        };
        Steps { starts, values: Vec::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// The step at this position.
    pub(crate) fn get(&self, position: usize) -> Option<(u128, u32)> {
        let value = *self.values.get(position)?;
        let start = match &self.starts {
            Starts::V4(starts) => u128::from(*starts.get(position)?),
            Starts::V6(starts) => *starts.get(position)?,
        };
        Some((start, value))
    }

    /// From `start` on the value is this. Starts never descend; a second value at the same start replaces the first.
    fn push(&mut self, start: u128, value: u32) {
        if self.len().checked_sub(1).and_then(|last| self.get(last)).is_some_and(|(last, _)| last == start) {
            self.values.pop();
            match &mut self.starts {
                Starts::V4(starts) => drop(starts.pop()),
                Starts::V6(starts) => drop(starts.pop()),
            }
        }
        if self.values.last().copied().unwrap_or(0) == value {
            return;
        }
        match &mut self.starts {
            Starts::V4(starts) => starts.push(start as u32),
            Starts::V6(starts) => starts.push(start),
        }
        self.values.push(value);
    }

    /// The value at an address.
    pub(crate) fn at(&self, address: u128) -> u32 {
        let after = match &self.starts {
            Starts::V4(starts) => starts.partition_point(|start| u128::from(*start) <= address),
            Starts::V6(starts) => starts.partition_point(|start| *start <= address),
        };
        after.checked_sub(1).and_then(|position| self.values.get(position)).copied().unwrap_or(0)
    }
}

/// Nested ranges become steps: where one is inside another the value is `inside(outer value, inner value)`.
/// Of two equal ranges the later one is the inner. Where two cross, as vendors' ranges do, the one that begins later
/// holds, and the other ends there.
pub(crate) fn flatten(family: Family, mut ranges: Vec<Range>, mut inside: impl FnMut(u32, u32) -> u32) -> Steps {
    // Outer before inner; the sort is stable, so equal ranges stay in the order of their lines.
    ranges.sort_by(|a, b| a.start.cmp(&b.start).then(b.end.cmp(&a.end)));
    let mut steps = Steps::new(family);
    let mut open: Vec<Range> = Vec::new();
    for range in ranges {
        close(&mut open, &mut steps, Some(range.start), family);
        let mut range = range;
        while open.pop_if(|outer| outer.end < range.end).is_some() {}
        if let Some(outer) = open.last() {
            range.value = inside(outer.value, range.value);
        }
        steps.push(range.start, range.value);
        open.push(range);
    }
    close(&mut open, &mut steps, None, family);
    steps
}

/// Ends the ranges that end before `before`; the value is again that of the range around.
fn close(open: &mut Vec<Range>, steps: &mut Steps, before: Option<u128>, family: Family) {
    while let Some(range) = open.pop_if(|range| before.is_none_or(|before| range.end < before)) {
        if range.end < family.last() {
            steps.push(range.end + 1, open.last().map_or(0, |outer| outer.value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(network: &str, value: u32) -> Range {
        Range::of(network.parse().unwrap(), value)
    }

    fn all(steps: &Steps) -> Vec<(u128, u32)> {
        (0..steps.len()).filter_map(|position| steps.get(position)).collect()
    }

    #[test]
    fn the_longest_prefix_decides_and_the_outer_one_returns() {
        let ranges = vec![range("10.0.0.0/8", 1), range("10.1.0.0/16", 2), range("10.1.1.0/24", 3)];
        let steps = flatten(Family::V4, ranges, |_, own| own);
        let expected: [(u128, u32); 6] = [
            (0x0a00_0000, 1),
            (0x0a01_0000, 2),
            (0x0a01_0100, 3),
            (0x0a01_0200, 2),
            (0x0a02_0000, 1),
            (0x0b00_0000, 0),
        ];
        assert_eq!(all(&steps), expected);
        assert_eq!(steps.at(0x0a01_01ff), 3);
        assert_eq!(steps.at(0x09ff_ffff), 0);
    }

    #[test]
    fn a_range_to_the_last_address_has_no_end() {
        let steps = flatten(Family::V4, vec![range("255.0.0.0/8", 1)], |_, own| own);
        assert_eq!(all(&steps), [(0xff00_0000, 1)]);
        let steps = flatten(Family::V6, vec![range("::/0", 1), range("ff00::/8", 2)], |_, own| own);
        assert_eq!(steps.at(u128::MAX), 2);
        assert_eq!(steps.at(0), 1);
    }

    #[test]
    fn of_ranges_that_cross_the_later_one_holds() {
        let range = |start, end, value| Range { start, end, value };
        let crossing = vec![range(0, 30, 1), range(2, 10, 2), range(5, 15, 3)];
        let steps = flatten(Family::V4, crossing, |_, own| own);
        assert_eq!(all(&steps), [(0, 1), (2, 2), (5, 3), (16, 1), (31, 0)]);
    }

    #[test]
    fn inner_and_outer_can_be_joined() {
        let ranges = vec![range("10.0.0.0/8", 1), range("10.1.0.0/16", 2), range("10.1.0.0/16", 4)];
        let steps = flatten(Family::V4, ranges, |outer, own| outer | own);
        assert_eq!(steps.at(0x0a01_0000), 7);
        assert_eq!(steps.at(0x0a02_0000), 1);
    }
}
