//! The decision over all combinations of what it is made from.

use std::collections::BTreeMap;

use super::*;

fn shelves() -> [Shelf; 5] {
    [
        Shelf::Nowhere,
        Shelf::Unreachable("away".into()),
        Shelf::Empty,
        Shelf::Unfit("unfit".into()),
        Shelf::Fits,
    ]
}

fn permissions() -> Vec<Option<Permission>> {
    // As a join secret gives them: a restore leaves the record alone.
    let given = [(true, false), (false, false), (true, true)]
        .map(|(recorded, restore)| Some(Permission { nonce: "n".into(), recorded, restore }));
    std::iter::once(None).chain(given).collect()
}

fn all() -> Vec<Facts> {
    let peers = [
        Peers::Unasked,
        Peers::Ours("url".into()),
        Peers::Silent("silent".into()),
        Peers::Strange("strange".into()),
    ];
    let mut all = Vec::new();
    for bits in 0..4u8 {
        for peers in &peers {
            for shelf in shelves() {
                for permission in permissions() {
                    let (unfinished, database) = (bits & 1 == 1, bits & 2 == 2);
                    let (peers, shelf) = (peers.clone(), shelf.clone());
                    all.push(Facts { unfinished, database, permission, peers, shelf });
                }
            }
        }
    }
    all
}

/// Whether cluster.toml has more servers than this one.
fn several(facts: &Facts) -> bool {
    facts.peers != Peers::Unasked
}

#[test]
fn over_all_combinations_nothing_is_lost_and_no_second_cluster_made() {
    let mut seen = BTreeMap::new();
    for facts in all() {
        let made = decide(&facts);
        let name = format!("{made:?}").split(['(', ' ']).next().unwrap_or_default().to_owned();
        *seen.entry(name).or_insert(0) += 1;
        let restore = facts.permission.as_ref().is_some_and(|p| p.restore);
        // A complete database is never restored over and never in the way of a start.
        if facts.database && !facts.unfinished {
            assert!(matches!(made, Origin::Disk | Origin::Initialise(_)), "{facts:?} {made:?}");
        }
        // A new cluster needs its permission, nobody who runs one, and no snapshot of the old one.
        if let Origin::Initialise(_) = made {
            assert!(facts.permission.is_some() && !restore && !facts.unfinished, "{facts:?}");
            let old = matches!(facts.shelf, Shelf::Fits | Shelf::Unfit(_));
            let runs = matches!(facts.peers, Peers::Ours(_) | Peers::Strange(_));
            assert!(facts.database || (!old && !runs), "{facts:?}");
        }
        // A cluster that is to be recorded waits for the place of its record.
        if let (Shelf::Unreachable(_), Some(Permission { recorded: true, .. })) =
            (&facts.shelf, &facts.permission)
        {
            assert!(facts.database || !matches!(made, Origin::Initialise(_)), "{facts:?}");
        }
        if made == Origin::Restore {
            assert!(facts.shelf == Shelf::Fits && (facts.unfinished || !facts.database));
            // Beside a cluster that lives, or for several servers unasked, it would be a second one.
            assert!(!matches!(facts.peers, Peers::Ours(_) | Peers::Strange(_)), "{facts:?}");
            assert!(!several(&facts) || facts.unfinished || restore, "{facts:?}");
        }
        // Joined is only who proved to be of this cluster, and only from an empty disk.
        if let Origin::Join(url) = &made {
            assert_eq!(facts.peers, Peers::Ours(url.clone()));
            assert!(!facts.database && !facts.unfinished, "{facts:?}");
        }
        // What was begun is never started from as if it were whole.
        let starts = matches!(made, Origin::Disk | Origin::Initialise(_) | Origin::Join(_));
        assert!(!facts.unfinished || !starts, "{facts:?}");
    }
    assert_eq!(seen.len(), 7, "every answer is met: {seen:?}");
}

#[test]
fn one_of_several_servers_waits_for_the_others_and_says_for_whom() {
    let peers = Peers::Silent("k3s-m2 (url): refused".into());
    for shelf in shelves() {
        let facts = Facts {
            unfinished: false,
            database: false,
            permission: None,
            peers: peers.clone(),
            shelf,
        };
        let want = "no other server answers: k3s-m2 (url): refused".to_owned();
        assert_eq!(decide(&facts), Origin::WaitForPeers(want));
    }
}
