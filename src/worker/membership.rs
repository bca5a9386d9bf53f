//! Which worker should serve which destination?

use std::collections::BTreeMap;

use crate::domain::{DestinationId, WorkerId};

/// The workers alive, as told by NOTIFY: everybody, the sender included, adopts a change on reading it, so
/// at each bell all views agree.
#[derive(Debug, Default, Clone)]
pub struct View {
    members: BTreeMap<WorkerId, Kind>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shares the destinations with the other general ones.
    General,
    /// Serves one destination (`--destination`), and stands outside the sharing.
    Pinned,
    /// Without `--persistent`: takes what nobody serves, and ends.
    Once,
    /// Stops: nothing new is for it.
    Draining,
}

impl Kind {
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::General => "general",
            Kind::Pinned => "pinned",
            Kind::Once => "once",
            Kind::Draining => "draining",
        }
    }

    pub fn from_name(name: &str) -> Kind {
        match name {
            "general" => Kind::General,
            "pinned" => Kind::Pinned,
            "once" => Kind::Once,
            _ => Kind::Draining,
        }
    }
}

impl View {
    pub fn insert(&mut self, worker: WorkerId, kind: Kind) {
        self.members.insert(worker, kind);
    }

    pub fn remove(&mut self, worker: WorkerId) -> Option<Kind> {
        self.members.remove(&worker)
    }

    pub fn kind(&self, worker: WorkerId) -> Option<Kind> {
        self.members.get(&worker).copied()
    }

    /// Rendezvous hashing: when a worker comes or goes, only its own share moves.
    pub fn preferred(&self, destination: DestinationId) -> Option<WorkerId> {
        self.of_kind(Kind::General).max_by_key(|worker| weight(*worker, destination))
    }

    /// How many come before it by the same hash: it would be the preferred one without them.
    pub fn rank(&self, worker: WorkerId, destination: DestinationId) -> Option<usize> {
        self.kind(worker).filter(|kind| *kind == Kind::General)?;
        let place = |worker: WorkerId| (weight(worker, destination), worker);
        Some(self.of_kind(Kind::General).filter(|other| place(*other) > place(worker)).count())
    }

    /// One worker's part of what all together may have.
    pub fn share_of(&self, budget: usize) -> usize {
        (budget / self.members.len().max(1)).max(1)
    }

    /// The one that does what one worker does for all: a general one, else a pinned one, else one that runs once.
    pub fn lowest(&self) -> Option<WorkerId> {
        self.of_kind(Kind::General)
            .next()
            .or_else(|| self.of_kind(Kind::Pinned).next())
            .or_else(|| self.of_kind(Kind::Once).next())
    }

    /// Whether somebody should serve every destination; else some are left alone, as was wanted.
    pub fn serves_all(&self) -> bool {
        self.of_kind(Kind::General).next().is_some()
    }

    /// Whom `me` watches: the next in the ring of all.
    pub fn successor(&self, me: WorkerId) -> Option<WorkerId> {
        let after = self.members.range((std::ops::Bound::Excluded(me), std::ops::Bound::Unbounded)).next();
        after.or_else(|| self.members.iter().next()).map(|(id, _)| *id).filter(|id| *id != me)
    }

    /// Those that come after it in the ring, the next one first.
    pub fn successors(&self, after: WorkerId, most: usize) -> Vec<WorkerId> {
        let (before, behind): (Vec<_>, Vec<_>) =
            self.members.keys().copied().filter(|id| *id != after).partition(|id| *id < after);
        behind.into_iter().chain(before).take(most).collect()
    }

    fn of_kind(&self, wanted: Kind) -> impl Iterator<Item = WorkerId> + '_ {
        self.members.iter().filter(move |(_, kind)| **kind == wanted).map(|(id, _)| *id)
    }
}

/// A well-mixed number of the pair (the finalizer of SplitMix64).
fn weight(worker: WorkerId, destination: DestinationId) -> u64 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    mix(mix(destination.0.cast_unsigned().wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ mix(worker.0.cast_unsigned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(ids: impl IntoIterator<Item = i64>) -> View {
        let mut view = View::default();
        for id in ids {
            view.insert(WorkerId(id), Kind::General);
        }
        view
    }

    #[test]
    fn shares_are_even_and_only_the_newcomers_share_moves() {
        let (four, five) = (view(1..=4), view(1..=5));
        let mut counts = BTreeMap::new();
        for id in (1..=10_000).map(DestinationId) {
            let before = four.preferred(id).expect("somebody");
            let after = five.preferred(id).expect("somebody");
            assert!(after == before || after == WorkerId(5));
            // Who comes next is who would be the first without those before.
            let mut left = five.clone();
            for rank in 0..5 {
                let first = left.preferred(id).expect("somebody");
                assert_eq!(five.rank(first, id), Some(rank));
                left.remove(first);
            }
            *counts.entry(after).or_insert(0) += 1;
        }
        assert!(counts.values().all(|count| (1_800..2_200).contains(count)), "{counts:?}");
    }

    #[test]
    fn only_general_workers_share_but_all_are_watched() {
        let mut view = view([3, 5]);
        view.insert(WorkerId(4), Kind::Pinned);
        view.insert(WorkerId(1), Kind::Once);
        assert!((1..100).all(|id| matches!(view.preferred(DestinationId(id)), Some(WorkerId(3 | 5)))));
        assert_eq!(view.lowest(), Some(WorkerId(3)));
        assert_eq!(view.successor(WorkerId(3)), Some(WorkerId(4)));
        assert_eq!(view.successor(WorkerId(5)), Some(WorkerId(1)));
        assert_eq!(view.rank(WorkerId(4), DestinationId(1)), None);
        assert!(view.serves_all());
        view.insert(WorkerId(3), Kind::Draining);
        assert_eq!(view.rank(WorkerId(3), DestinationId(1)), None);
        assert_eq!(view.rank(WorkerId(5), DestinationId(1)), Some(0));
        assert_eq!(view.lowest(), Some(WorkerId(5)));
        view.insert(WorkerId(5), Kind::Draining);
        assert!(!view.serves_all());
        assert_eq!(view.lowest(), Some(WorkerId(4)), "a pinned one, when there is no other");
        view.remove(WorkerId(4));
        assert_eq!(view.lowest(), Some(WorkerId(1)), "and one that runs once, when it is alone");
        assert_eq!(super::View::default().preferred(DestinationId(1)), None);
    }
}
