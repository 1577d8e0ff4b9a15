//! Who is next: callers take turns, and each caller's commands keep their order.
//!
//! Start-time fair queueing, counted in rows: a caller that was given a list of a hundred rows has
//! its next turn when the others have had a hundred rows each, or nothing else waits. If callers
//! are not known, all commands wait in one queue, in the order of their arrival.

use std::collections::{BTreeMap, VecDeque};

use foldhash::{HashMap, HashMapExt as _};
use slab::Slab;

use crate::domain::{Caller, Command};

/// The waiting items of all callers.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// The queues of callers that have something waiting, or have had more than the others.
    queues: Slab<Queue<T>>,
    /// The queue of each caller: looked up once when an item is added, and not at all when it is
    /// taken. Nobody but an operator makes callers, so that their hashes need not withstand an attack.
    by_caller: HashMap<Caller, Slot>,
    /// The queues, in the order in which their turns come.
    order: BTreeMap<Place, Slot>,
    /// The current turn.
    now: u64,
    /// The next ranks to assign, at the front and at the back.
    first_rank: i64,
    last_rank: i64,
    len: usize,
    /// `lengths[n]` counts the queues with `n` items; `longest` is the largest `n` that occurs.
    lengths: Vec<usize>,
    longest: usize,
    /// The queue that was the longest when all were last searched.
    flood: Option<Slot>,
}

/// The position of a queue in `queues`.
type Slot = usize;

#[derive(Debug)]
struct Queue<T> {
    caller: Caller,
    items: VecDeque<T>,
    place: Place,
}

/// When a queue's turn comes: `turn` is the number of rows that each of the others has had by then,
/// and `rank` orders the queues with the same turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    turn: u64,
    rank: i64,
}

/// An item that waits for its turn.
pub(super) trait Waiting {
    fn command(&self) -> &Command;
}

impl<T: Waiting> Turns<T> {
    pub fn new() -> Self {
        Self {
            queues: Slab::new(),
            by_caller: HashMap::new(),
            order: BTreeMap::new(),
            now: 0,
            first_rank: -1,
            last_rank: 0,
            len: 0,
            lengths: Vec::new(),
            longest: 0,
            flood: None,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds an item that has just arrived. If there are `max` already, one is turned away and
    /// returned: the last of a caller that has many waiting, so that a flood is turned away before
    /// anyone else.
    pub fn push_back(&mut self, item: T, max: usize) -> Option<T> {
        let own = self.by_caller.get(item.command().caller()).copied();
        let mut refused = None;
        if self.len >= max {
            let waiting = own.map_or(0, |slot| self.queues[slot].items.len());
            let Some(flood) = self.longer_than(waiting + 1) else { return Some(item) };
            refused = self.change(flood, VecDeque::pop_back);
        }
        let slot = own.unwrap_or_else(|| {
            let place = self.last_place(self.now);
            self.add(item.command().caller().clone(), place)
        });
        self.change(slot, |items| items.push_back(item));
        refused
    }

    /// Puts an item in front of all others, those of its own caller and those of the rest.
    pub fn push_front(&mut self, item: T) {
        let place = Place { turn: self.now, rank: self.first_rank };
        self.first_rank -= 1;
        let slot = match self.by_caller.get(item.command().caller()).copied() {
            Some(slot) => {
                self.order.remove(&self.queues[slot].place);
                self.put(slot, place);
                slot
            }
            None => self.add(item.command().caller().clone(), place),
        };
        self.change(slot, |items| items.push_front(item));
    }

    /// Takes the next item.
    pub fn pop(&mut self) -> Option<T> {
        while self.len > 0 {
            let (place, slot) = self.order.pop_first()?;
            debug_assert!(place.turn >= self.now, "no place is given in the past");
            self.now = place.turn;
            let Some(item) = self.change(slot, VecDeque::pop_front) else {
                // The caller's turn has come again, so what it had before no longer counts.
                self.forget(slot);
                continue;
            };
            let place = self.last_place(self.now + item.command().rows() as u64);
            self.put(slot, place);
            if self.len == 0 {
                // Nothing waits, so what callers have had no longer counts.
                self.clear();
            }
            return Some(item);
        }
        None
    }

    /// Removes late items from the front of each caller's queue.
    pub fn take_late(&mut self, is_late: impl Fn(&T) -> bool) -> Vec<T> {
        let late = |queue: &Queue<T>| queue.items.front().is_some_and(&is_late);
        let slots = self.queues.iter().filter(|(_, queue)| late(queue));
        let slots: Vec<Slot> = slots.map(|(slot, _)| slot).collect();
        let mut taken = Vec::new();
        for slot in slots {
            while late(&self.queues[slot]) {
                taken.extend(self.change(slot, VecDeque::pop_front));
            }
        }
        taken
    }

    /// The first item of each caller, which is the one that has waited longest.
    pub fn firsts(&self) -> impl Iterator<Item = &T> {
        self.queues.iter().filter_map(|(_, queue)| queue.items.front())
    }

    /// A place behind all others of a turn.
    fn last_place(&mut self, turn: u64) -> Place {
        let place = Place { turn, rank: self.last_rank };
        self.last_rank += 1;
        place
    }

    /// Adds a queue for a caller that has none.
    fn add(&mut self, caller: Caller, place: Place) -> Slot {
        let queue = Queue { caller: caller.clone(), items: VecDeque::new(), place };
        let slot = self.queues.insert(queue);
        self.by_caller.insert(caller, slot);
        self.order.insert(place, slot);
        slot
    }

    /// Gives a place to a queue that has none in the order.
    fn put(&mut self, slot: Slot, place: Place) {
        self.queues[slot].place = place;
        self.order.insert(place, slot);
    }

    /// Changes a queue, and updates the counts.
    fn change<R>(&mut self, slot: Slot, act: impl FnOnce(&mut VecDeque<T>) -> R) -> R {
        let items = &mut self.queues[slot].items;
        let before = items.len();
        let done = act(items);
        let after = items.len();
        self.len = self.len + after - before;
        if self.lengths.len() <= after {
            self.lengths.resize(after + 1, 0);
        }
        self.lengths[before] = self.lengths[before].saturating_sub(1);
        self.lengths[after] += 1;
        self.longest = self.longest.max(after);
        // Queues change by one item at a time, so this one now has the next lower length.
        if self.lengths[self.longest] == 0 {
            self.longest = after;
        }
        done
    }

    /// Removes a queue that is empty.
    fn forget(&mut self, slot: Slot) {
        let queue = self.queues.remove(slot);
        self.by_caller.remove(&queue.caller);
        // The next queue in this slot is another caller's.
        self.flood = self.flood.filter(|flood| *flood != slot);
    }

    fn clear(&mut self) {
        self.queues.clear();
        self.by_caller.clear();
        self.order.clear();
        self.lengths.clear();
        self.longest = 0;
        self.flood = None;
    }

    /// A caller with more than `own` items waiting, and at least half as many as any other caller
    /// has. Searches all queues only if the last one found no longer qualifies.
    fn longer_than(&mut self, own: usize) -> Option<Slot> {
        if self.longest <= own {
            return None;
        }
        let has_many = |slot: Slot| {
            let count = self.queues[slot].items.len();
            count > own && 2 * count >= self.longest
        };
        if !self.flood.is_some_and(has_many) {
            let longest = self.queues.iter().max_by_key(|(_, queue)| queue.items.len());
            self.flood = longest.map(|(slot, _)| slot);
        }
        self.flood
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{Item, PartnerId, Precondition, ReservationId, Reserve, SeatCount};

    /// A command and its number.
    #[derive(Debug)]
    struct Numbered(Command, usize);

    impl Waiting for Numbered {
        fn command(&self) -> &Command {
            &self.0
        }
    }

    /// A command of a partner, with this many rows.
    fn command(partner: &str, rows: usize, number: usize) -> Numbered {
        let partner_id = PartnerId::parse(partner).expect("a partner id");
        let seats = SeatCount::new(1).expect("a seat count");
        let item = Item { id: ReservationId(Uuid::nil()), seats, hold: None, reference: None };
        let command = Command::Reserve(Reserve {
            partner_id: partner_id.clone(),
            items: vec![item; rows],
            is_list: rows > 1,
            key: None,
            precondition: Precondition::Any,
            by: Caller::Partner(partner_id),
            limits: None,
        });
        Numbered(command, number)
    }

    /// All that waits, taken one by one.
    fn taken(turns: &mut Turns<Numbered>) -> String {
        let mut all = Vec::new();
        while let Some(item) = turns.pop() {
            let Caller::Partner(partner) = item.command().caller() else { unreachable!() };
            all.push(format!("{}{}", partner.as_str(), item.1));
        }
        assert_eq!((turns.len, turns.order.len(), turns.queues.len()), (0, 0, 0));
        assert_eq!(turns.by_caller.len(), 0);
        assert_eq!(turns.longest, 0);
        all.join(" ")
    }

    fn turns(commands: &[(&str, usize)]) -> Turns<Numbered> {
        let mut turns = Turns::new();
        for (number, (partner, rows)) in commands.iter().enumerate() {
            assert!(turns.push_back(command(partner, *rows, number), usize::MAX).is_none());
        }
        turns
    }

    #[test]
    fn they_take_turns_and_each_ones_own_keep_their_order() {
        let mut turns = turns(&[("a", 1), ("a", 1), ("a", 1), ("b", 1), ("b", 1), ("c", 1)]);
        assert_eq!(taken(&mut turns), "a0 b3 c5 a1 b4 a2");
    }

    #[test]
    fn a_list_costs_as_many_turns_as_it_has_rows() {
        let mut turns = turns(&[("a", 3), ("a", 1), ("b", 1), ("b", 1), ("b", 1), ("b", 1)]);
        assert_eq!(taken(&mut turns), "a0 b2 b3 b4 a1 b5");
    }

    #[test]
    fn what_is_put_back_is_the_next() {
        let mut turns = turns(&[("a", 1), ("a", 1), ("b", 1), ("c", 1)]);
        turns.pop().expect("a0");
        let next = turns.pop().expect("b2");
        turns.push_front(next);
        assert_eq!(taken(&mut turns), "b2 c3 a1");
    }

    /// As with deferred commands: the last of them is put in first.
    #[test]
    fn what_is_put_in_front_keeps_its_order() {
        let mut turns = turns(&[("d", 1), ("a", 1)]);
        for (partner, number) in [("c", 9), ("a", 8), ("b", 7), ("a", 6)] {
            turns.push_front(command(partner, 1, number));
        }
        assert_eq!(taken(&mut turns), "a6 b7 c9 d0 a8 a1");
    }

    /// Sending one command at a time, as a client that waits for its answer does, is no way around
    /// it.
    #[test]
    fn what_somebody_had_counts_until_the_others_had_as_much() {
        let mut turns = turns(&[("a", 1); 20]);
        let mut order = Vec::new();
        for number in 0..3 {
            turns.push_back(command("lists", 4, 100 + number), usize::MAX);
            while let Some(item) = turns.pop() {
                order.push(item.1);
                if item.1 >= 100 {
                    break;
                }
            }
        }
        assert_eq!(order, [0, 100, 1, 2, 3, 101, 4, 5, 6, 7, 102]);
    }

    #[test]
    fn a_flood_is_turned_away_first() {
        let mut turns = turns(&[("a", 1); 8]);
        let mut push = |partner, number| {
            turns.push_back(command(partner, 1, number), 8).map(|refused| refused.1)
        };
        // The new command itself, since no other caller has more waiting.
        assert_eq!(push("a", 100), Some(100));
        // The last ones of "a", one after the other, until both have about the same number.
        let refused: Vec<_> = (10..15).map(|number| push("b", number)).collect();
        assert_eq!(refused, [Some(7), Some(6), Some(5), Some(4), Some(14)]);
        assert_eq!(push("c", 20), Some(3));
        assert_eq!(taken(&mut turns), "a0 b10 c20 a1 b11 a2 b12 b13");
    }

    /// Evicting an item of a caller that has as many would only swap the two.
    #[test]
    fn who_would_have_as_many_is_turned_away() {
        let mut turns = turns(&[("a", 1); 3]);
        assert_eq!(turns.push_back(command("b", 1, 10), 3).map(|refused| refused.1), Some(2));
        assert_eq!(turns.push_back(command("b", 1, 11), 3).map(|refused| refused.1), Some(11));
    }

    /// However many callers there are that have only a few items.
    #[test]
    fn a_flood_is_turned_away_before_any_of_many() {
        let names: Vec<String> = (0..50).map(|number| format!("p{number}")).collect();
        let mut all = vec![("flood", 1); 50];
        all.extend(names.iter().map(|name| (name.as_str(), 1)));
        let mut turns = turns(&all);
        for (number, name) in names.iter().enumerate().take(25) {
            let refused = turns.push_back(command(name, 1, 200 + number), 100);
            assert_eq!(refused.map(|refused| refused.1), Some(49 - number));
        }
    }

    /// The earlier flood may be gone by now, and another caller may be one.
    #[test]
    fn the_next_flood_is_turned_away_too() {
        let mut turns = turns(&[("a", 1); 4]);
        assert_eq!(turns.push_back(command("b", 1, 10), 4).map(|refused| refused.1), Some(3));
        for number in 20..30 {
            turns.pop().expect("something waits");
            turns.push_back(command("d", 1, number), 4);
        }
        assert_eq!(turns.push_back(command("e", 1, 30), 4).map(|refused| refused.1), Some(29));
    }

    /// The caller that was found before no longer has the most; another has more than the new one.
    #[test]
    fn who_has_no_more_than_the_one_who_comes_is_left_alone() {
        let mut turns = turns(&[("a", 1); 4]);
        assert_eq!(turns.push_back(command("b", 1, 10), 4).map(|refused| refused.1), Some(3));
        for number in 20..23 {
            turns.push_back(command("c", 1, number), usize::MAX);
        }
        assert_eq!(turns.pop().map(|item| item.1), Some(0));
        assert_eq!(turns.push_back(command("b", 1, 11), 6).map(|refused| refused.1), Some(22));
    }

    /// A caller is forgotten while others still wait, not only when nothing waits: the flood, too.
    #[test]
    fn who_is_gone_comes_back_as_anybody_else() {
        let mut turns = turns(&[("a", 1); 4]);
        assert_eq!(turns.push_back(command("d", 1, 20), 4).map(|refused| refused.1), Some(3));
        for number in 21..27 {
            turns.push_back(command("d", 1, number), usize::MAX);
        }
        let mut next = || turns.pop().map(|item| item.1);
        let order: Vec<_> = std::iter::from_fn(|| next().filter(|number| *number != 23)).collect();
        assert_eq!(order, [0, 20, 1, 21, 2, 22]);
        assert_eq!(turns.push_back(command("e", 1, 30), 3).map(|refused| refused.1), Some(26));
        turns.push_back(command("a", 1, 40), usize::MAX);
        assert_eq!(taken(&mut turns), "e30 a40 d24 d25");
    }

    #[test]
    fn what_is_late_is_found_behind_everybody() {
        let mut turns = turns(&[("a", 1), ("b", 1), ("a", 1), ("c", 1), ("b", 1)]);
        assert_eq!(turns.firsts().map(|item| item.1).min(), Some(0));
        let mut late: Vec<_> =
            turns.take_late(|item| [0, 1, 2].contains(&item.1)).iter().map(|item| item.1).collect();
        late.sort_unstable();
        assert_eq!(late, [0, 1, 2]);
        assert_eq!(turns.firsts().map(|item| item.1).min(), Some(3));
        assert_eq!(taken(&mut turns), "b4 c3");
    }
}
