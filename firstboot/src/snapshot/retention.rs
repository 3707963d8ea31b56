//! How many snapshots stay on NFS. K3s' own retention goes by a name's prefix and would reach into
//! other nodes' files (traps E4), so ours looks only at sidecars of this node that were read whole.

use std::collections::BTreeSet;

/// The newest that always stay: two days at one every 12 hours, and those before planned stops.
const NEWEST: usize = 8;
/// Days of which the last snapshot stays beside those.
const DAYS: usize = 14;
const DAY: i64 = 24 * 60 * 60;

/// Which of the snapshots, given by the times they were taken (seconds since 1970, newest first),
/// may go: positions in `taken`. Never the newest.
pub fn surplus(taken: &[i64]) -> Vec<usize> {
    let mut days = BTreeSet::new();
    let mut gone = Vec::new();
    for (position, at) in taken.iter().enumerate() {
        // The first of a day that is met is its last.
        let last_of_day = days.len() < DAYS && days.insert(at.div_euclid(DAY));
        if position >= NEWEST && !last_of_day {
            gone.push(position);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_and_the_last_of_each_day_stay() {
        let twice_a_day: Vec<i64> = (0..60).map(|n| 60 * DAY - n * DAY / 2 - 1).collect();
        let gone = surplus(&twice_a_day);
        let kept: Vec<_> = (0..60).filter(|n| !gone.contains(n)).collect();
        assert_eq!(kept, [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26]);
    }

    #[test]
    fn the_newest_never_goes_and_few_all_stay() {
        for count in 0..40i64 {
            for step in [1, 100, DAY / 3, DAY, 3 * DAY] {
                let taken: Vec<i64> = (0..count).map(|n| 1_800_000_000 - n * step).collect();
                let gone = surplus(&taken);
                assert!(!gone.contains(&0));
                assert!(taken.len() > NEWEST || gone.is_empty());
                assert!(taken.len() - gone.len() >= taken.len().min(NEWEST));
            }
        }
    }
}
