//! Places for servers under caps that several pools share: `max_db_connections` and `max_user_connections`.
//!
//! Pure. Each server has a place, from before its connect to behind its close. A pool that needs one and finds a cap full
//! stands in line; places go to the pool with the fewest servers first, then to the one that stands longest. Where a
//! cap is full, the pool with the most servers gives one up: at once if that makes them more equal, and else, if the one in
//! line has none at all, in turns. So nobody starves, and pools that have their share do not take servers from each other.

use std::time::Duration;

use crate::ids::Moment;

/// The number of a cap.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CapIx(usize);

/// The number of a pool among all pools of the process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SharerIx(pub usize);

/// For how long a pool that has got a place keeps it from those who have none: a new connection serves that long, so that
/// turns do not cost more than they give.
pub const TURN: Duration = Duration::from_millis(100);

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Cap {
    limit: usize,
    used: usize,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct Sharer {
    caps: [CapIx; 2],
    used: usize,
    /// When it got its last place.
    gained: Moment,
    /// Its number in the line, if it stands there.
    turn: Option<u64>,
}

/// All caps and who shares them. See the module's text.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Caps {
    caps: Vec<Cap>,
    pools: Vec<Sharer>,
    last_turn: u64,
}

/// A cap is full, and somebody stands in line for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Press {
    /// Those who have a place that would help: an idle server of theirs is closed, now or when there is one.
    pub holders: Vec<SharerIx>,
    /// Only one that has been idle for a [`TURN`]: whoever stands in line has servers, and the holder may need its own again.
    pub patient: bool,
    /// The one whose next server to come back is closed, even if somebody waits for it there.
    pub yields: Option<SharerIx>,
    /// If nobody yields yet: when to look again.
    pub again: Option<Moment>,
}

impl Caps {
    /// Adds a cap; it is not there yet for anybody.
    pub fn add_cap(&mut self, limit: Option<usize>) -> CapIx {
        self.caps.push(Cap { limit: limit.unwrap_or(usize::MAX), used: 0 });
        CapIx(self.caps.len() - 1)
    }

    /// Changes a cap. Places that are too many by it are not taken back.
    pub fn limit(&mut self, cap: CapIx, limit: Option<usize>) {
        if let Some(cap) = self.caps.get_mut(cap.0) {
            cap.limit = limit.unwrap_or(usize::MAX);
        }
    }

    /// Adds a pool under two different caps.
    pub fn add_pool(&mut self, caps: [CapIx; 2]) -> SharerIx {
        self.pools.push(Sharer { caps, used: 0, gained: Moment(0), turn: None });
        SharerIx(self.pools.len() - 1)
    }

    /// Gives the number of a pool that is no more, and has no place, to another one.
    pub fn reuse(&mut self, pool: SharerIx, caps: [CapIx; 2]) {
        if let Some(sharer) = self.pools.get_mut(pool.0) {
            debug_assert_eq!(sharer.used, 0, "the number of a pool that has places");
            *sharer = Sharer { caps, used: 0, gained: Moment(0), turn: None };
        }
    }

    /// Takes a place, unless a cap is full or the place is due to somebody in line. True: it is taken.
    pub fn take(&mut self, pool: SharerIx, now: Moment) -> bool {
        let Some(sharer) = self.pools.get(pool.0) else { return false };
        let caps = sharer.caps;
        let due = |other: &Sharer| other.turn.is_some() && other.caps.iter().any(|cap| caps.contains(cap));
        let overtakes = self.pools.iter().any(|other| due(other) && self.has_room(other));
        if overtakes || !self.has_room(sharer) {
            return false;
        }
        self.count(pool, now);
        true
    }

    /// Stands in line, behind those who do; once.
    pub fn ask(&mut self, pool: SharerIx) {
        self.last_turn += 1;
        let turn = self.last_turn;
        if let Some(sharer) = self.pools.get_mut(pool.0) {
            sharer.turn.get_or_insert(turn);
        }
    }

    /// Leaves the line: what it stood for is no longer needed.
    pub fn leave(&mut self, pool: SharerIx) {
        if let Some(sharer) = self.pools.get_mut(pool.0) {
            sharer.turn = None;
        }
    }

    /// A server is closed, or its connect has failed.
    pub fn give_back(&mut self, pool: SharerIx) {
        let Some(sharer) = self.pools.get_mut(pool.0) else { return };
        debug_assert!(sharer.used > 0, "a place came back that was not taken");
        sharer.used = sharer.used.saturating_sub(1);
        for cap in sharer.caps {
            if let Some(cap) = self.caps.get_mut(cap.0) {
                cap.used = cap.used.saturating_sub(1);
            }
        }
    }

    /// Gives the next place that is free to the pool that it is due to, which leaves the line.
    pub fn next(&mut self, now: Moment) -> Option<SharerIx> {
        let pool = self.line().into_iter().find(|pool| self.pools.get(pool.0).is_some_and(|one| self.has_room(one)))?;
        self.count(pool, now);
        Some(pool)
    }

    /// What is to be done for those who stand in line after [`next`](Self::next) has found nobody: one for each full cap.
    #[must_use]
    pub fn presses(&self, now: Moment) -> Vec<Press> {
        let mut seen: Vec<CapIx> = Vec::new();
        let mut presses = Vec::new();
        for taker in self.line() {
            let Some(sharer) = self.pools.get(taker.0) else { continue };
            for cap in sharer.caps {
                if self.is_full(cap) && !seen.contains(&cap) {
                    seen.push(cap);
                    presses.push(self.press(taker, cap, now));
                }
            }
        }
        presses
    }

    fn press(&self, taker: SharerIx, cap: CapIx, now: Moment) -> Press {
        let all = self.pools.iter().enumerate();
        let mut holders: Vec<_> = all
            .filter(|(ix, other)| SharerIx(*ix) != taker && other.used > 0 && other.caps.contains(&cap))
            .map(|(ix, other)| (usize::MAX - other.used, other.gained, SharerIx(ix)))
            .collect();
        // The one with the most, and of those the one that has had them longest.
        holders.sort_unstable();
        let has = self.pools.get(taker.0).map_or(0, |taker| taker.used);
        let most = holders.first().map(|(used, gained, ix)| (usize::MAX - used, *gained, *ix));
        let (yields, again) = match most {
            Some((used, _, ix)) if used >= has + 2 => (Some(ix), None),
            Some((_, gained, ix)) if has == 0 => {
                let turn = gained.plus(TURN);
                if now >= turn { (Some(ix), None) } else { (None, Some(turn)) }
            }
            _ => (None, None),
        };
        Press { holders: holders.into_iter().map(|(_, _, ix)| ix).collect(), patient: has > 0, yields, again }
    }

    /// Those in line: the fewest servers first, then as they came.
    #[must_use]
    pub fn line(&self) -> Vec<SharerIx> {
        let all = self.pools.iter().enumerate();
        let mut line: Vec<_> = all.filter_map(|(ix, pool)| Some((pool.used, pool.turn?, SharerIx(ix)))).collect();
        line.sort_unstable();
        line.into_iter().map(|(_, _, ix)| ix).collect()
    }

    fn count(&mut self, pool: SharerIx, now: Moment) {
        let Some(sharer) = self.pools.get_mut(pool.0) else { return };
        (sharer.used, sharer.gained, sharer.turn) = (sharer.used + 1, now, None);
        for cap in sharer.caps {
            if let Some(cap) = self.caps.get_mut(cap.0) {
                cap.used += 1;
            }
        }
    }

    fn is_full(&self, cap: CapIx) -> bool {
        self.caps.get(cap.0).is_none_or(|cap| cap.used >= cap.limit)
    }

    /// Whether nobody has a place under it.
    #[must_use]
    pub fn is_unused(&self, cap: CapIx) -> bool {
        self.caps.get(cap.0).is_some_and(|cap| cap.used == 0)
    }

    /// The pools under a cap.
    pub fn sharers(&self, cap: CapIx) -> impl Iterator<Item = SharerIx> {
        let all = self.pools.iter().enumerate();
        all.filter(move |(_, pool)| pool.caps.contains(&cap)).map(|(ix, _)| SharerIx(ix))
    }

    fn has_room(&self, sharer: &Sharer) -> bool {
        !sharer.caps.iter().any(|cap| self.is_full(*cap))
    }

    /// The places of a pool.
    #[must_use]
    pub fn used(&self, pool: SharerIx) -> usize {
        self.pools.get(pool.0).map_or(0, |pool| pool.used)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pools `a`, `b`, `c` under one cap, each also under one of its own that is not there.
    fn three(limit: usize) -> (Caps, [SharerIx; 3]) {
        let mut caps = Caps::default();
        let shared = caps.add_cap(Some(limit));
        let pools = [0; 3].map(|_| {
            let own = caps.add_cap(None);
            caps.add_pool([shared, own])
        });
        (caps, pools)
    }

    const NOW: Moment = Moment(1000);

    #[test]
    fn places_go_to_the_fewest_and_then_to_the_first() {
        let (mut caps, [a, b, c]) = three(4);
        assert!(caps.take(a, NOW) && caps.take(a, NOW) && caps.take(b, NOW) && caps.take(b, NOW));
        assert!(!caps.take(a, NOW), "full");
        [a, b, c, c].into_iter().for_each(|pool| caps.ask(pool));
        assert_eq!(caps.next(NOW), None);
        caps.give_back(b);
        assert!(!caps.take(a, NOW), "the place is due to somebody in line");
        assert_eq!(caps.next(NOW), Some(c), "it has none");
        assert_eq!(caps.next(NOW), None, "it stood in line once");
        caps.give_back(a);
        caps.give_back(a);
        assert_eq!([caps.next(NOW), caps.next(NOW), caps.next(NOW)], [Some(a), Some(b), None]);
        assert_eq!([a, b, c].map(|pool| caps.used(pool)), [1, 2, 1]);
        assert_eq!(caps.line(), []);
    }

    #[test]
    fn the_one_with_the_most_yields_if_that_makes_them_more_equal() {
        let (mut caps, [a, b, c]) = three(4);
        (0..3).for_each(|_| assert!(caps.take(a, NOW)));
        assert!(caps.take(b, NOW));
        assert_eq!(caps.presses(NOW), [], "nobody stands in line");
        caps.ask(b);
        let press = caps.presses(NOW).remove(0);
        assert_eq!((press.holders, press.yields, press.again), (vec![a], Some(a), None));
        assert!(press.patient);
        caps.give_back(a);
        assert_eq!(caps.next(NOW), Some(b));
        // Two each: to take more would only turn the tables.
        caps.ask(b);
        let press = caps.presses(Moment(1_000_000)).remove(0);
        assert_eq!((press.holders, press.yields, press.again), (vec![a], None, None));
        // One that has none comes first, and either of them yields.
        caps.ask(c);
        let press = caps.presses(NOW).remove(0);
        assert_eq!((press.yields, press.again, press.patient), (Some(a), None, false));
    }

    #[test]
    fn more_pools_than_places_take_turns() {
        let (mut caps, [a, b, c]) = three(1);
        assert!(caps.take(a, NOW));
        caps.ask(b);
        caps.ask(c);
        let turn = NOW.plus(TURN);
        let press = |caps: &Caps, now| caps.presses(now).remove(0);
        assert_eq!((press(&caps, NOW).yields, press(&caps, NOW).again), (None, Some(turn)));
        assert_eq!(press(&caps, turn).yields, Some(a));
        caps.give_back(a);
        caps.ask(a);
        assert_eq!(caps.next(turn), Some(b));
        assert_eq!(press(&caps, turn.plus(TURN)).yields, Some(b));
        caps.give_back(b);
        caps.ask(b);
        assert_eq!(caps.next(turn), Some(c), "in the order of their coming");
    }

    #[test]
    fn two_caps_and_a_change_of_one() {
        let mut caps = Caps::default();
        let (database, user, free) = (caps.add_cap(Some(2)), caps.add_cap(Some(1)), caps.add_cap(None));
        let (both, only_database) = (caps.add_pool([database, user]), caps.add_pool([database, free]));
        let elsewhere = caps.add_pool([free, user]);
        assert!(caps.take(elsewhere, NOW) && !caps.take(both, NOW));
        caps.ask(elsewhere);
        caps.leave(elsewhere);
        caps.ask(both);
        assert!(caps.take(only_database, NOW), "whom another cap stops does not stop others at this one");
        let presses = caps.presses(NOW);
        assert_eq!((presses.len(), &presses[0].holders), (1, &vec![elsewhere]));
        caps.limit(user, None);
        assert_eq!(caps.next(NOW), Some(both));
        caps.limit(database, Some(1));
        caps.ask(only_database);
        assert_eq!(caps.next(NOW), None);
        caps.give_back(both);
        assert_eq!(caps.next(NOW), None, "one place is taken and there is but one");
    }
}
