use proptest::prelude::*;

use super::v6::{CELL_BITS, GLOBAL_AFTER, GLOBAL_START};
use super::*;

fn table4(steps: &[(u32, u32)]) -> Table4 {
    let mut builder = Builder4::new();
    for (start, record) in steps {
        builder.push(*start, *record);
    }
    builder.finish()
}

fn table6(steps: &[(u128, u32)]) -> Table6 {
    let mut builder = Builder6::new();
    for (start, record) in steps {
        builder.push(*start, *record);
    }
    builder.finish(100)
}

/// What the steps say, by looking at them one after the other.
fn slow<T: PartialOrd + Copy>(steps: &[(T, u32)], address: T) -> u32 {
    steps.iter().take_while(|(start, _)| *start <= address).last().map_or(0, |(_, record)| *record)
}

fn check6(steps: &[(u128, u32)]) {
    let table = table6(steps);
    let edges = [0, GLOBAL_START, GLOBAL_AFTER, u128::MAX].into_iter().chain(steps.iter().map(|(start, _)| *start));
    for edge in edges {
        for address in [edge.wrapping_sub(1), edge, edge.wrapping_add(1), edge | ((1 << CELL_BITS) - 1)] {
            assert_eq!(table.get(address), slow(steps, address), "{address:#x} of {steps:x?}");
            let (first, last) = table.range(address);
            assert!(first <= address && address <= last, "{first:#x} {address:#x} {last:#x} of {steps:x?}");
            assert_eq!(table.get(first), table.get(last), "{first:#x} to {last:#x} of {steps:x?}");
        }
    }
    let mut said: Vec<(u128, u32)> = table.steps().collect();
    assert!(said.is_sorted_by(|a, b| a.0 < b.0), "{said:x?} of {steps:x?}");
    said.dedup_by_key(|(_, record)| *record);
    let mut expected = steps.to_vec();
    expected.dedup_by_key(|(_, record)| *record);
    assert_eq!(said, expected);
}

/// Steps from starts: the first at 0, each with another record than the one before.
fn steps<T: Ord + Copy + Default>(mut starts: Vec<T>) -> Vec<(T, u32)> {
    starts.push(T::default());
    starts.sort();
    starts.dedup();
    starts.into_iter().zip(1..).map(|(start, position)| (start, position % 5)).collect()
}

#[test]
fn one_step_is_the_answer_everywhere() {
    let table = table4(&[(0, 7)]);
    for address in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
        assert_eq!(table.get(address), 7);
        assert_eq!(table.range(address), (0, u32::MAX));
    }
    check6(&[(0, 7)]);
}

#[test]
fn steps_at_the_edges_of_runs_are_found() {
    check6(&[(0, 1), (GLOBAL_START, 2), (GLOBAL_AFTER, 3)]);
    check6(&[(0, 1), (GLOBAL_START + 1, 2), (GLOBAL_AFTER - 1, 3)]);
    check6(&[(0, 1), (GLOBAL_AFTER - 1, 2), (GLOBAL_AFTER + 1, 3), (u128::MAX, 4)]);
    // Whole addresses in neighbouring cells, and in the last cell.
    let cell = 1_u128 << CELL_BITS;
    let at = (0x2001 << 112) + 5 * cell;
    check6(&[(0, 1), (at + 1, 2), (at + 2, 3), (at + cell, 4), (at + cell + 9, 5), (at + 3 * cell, 6)]);
}

proptest! {
    #[test]
    fn ipv4_look_ups_agree_with_a_linear_search(
        starts in prop::collection::vec(prop_oneof![any::<u32>(), 0x0a00_0000_u32..0x0a00_0100, Just(u32::MAX)], 0..60),
        probes in prop::collection::vec(any::<u32>(), 30),
    ) {
        let steps = steps(starts);
        let table = table4(&steps);
        for edge in steps.iter().map(|(start, _)| *start).chain(probes) {
            for address in [edge.wrapping_sub(1), edge, edge.wrapping_add(1)] {
                prop_assert_eq!(table.get(address), slow(&steps, address));
                let (first, last) = table.range(address);
                prop_assert!(first <= address && address <= last);
                prop_assert!(steps.iter().any(|(start, _)| *start == first));
                prop_assert!(last == u32::MAX || steps.iter().any(|(start, _)| *start == last + 1));
            }
        }
        prop_assert_eq!(table.steps().collect::<Vec<_>>(), steps);
    }

    #[test]
    fn ipv6_look_ups_agree_with_a_linear_search(
        starts in prop::collection::vec(
            prop_oneof![
                any::<u128>(),
                (0x2000_u128..0x4001).prop_map(|first| first << 112),
                any::<u64>().prop_map(|low| (0x2a00_1234_u128 << 96) | (u128::from(low) << 60)),
                any::<u8>().prop_map(|low| (0x2a00_1234_5678_u128 << 80) | u128::from(low)),
            ],
            0..60,
        ),
    ) {
        check6(&steps(starts));
    }
}
