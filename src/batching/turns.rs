//! Who is next: those who wait take turns by who they are, and each one's commands keep their order.
//!
//! Start-time fair queueing, counted in rows: who was given a list of a hundred comes again when the
//! others have had a hundred rows each, or nothing waits. Where nobody is known, all wait in one
//! line, in the order of their arrival.

use std::collections::{BTreeMap, HashMap, VecDeque};

use slab::Slab;

use crate::domain::{Caller, Command};

/// What waits, of everybody.
#[derive(Debug)]
pub(super) struct Turns<T> {
    /// Of whoever has something waiting, or has had more than the others.
    queues: Slab<Queue<T>>,
    /// Where everybody's queue is: looked up once for what comes, and not at all for what goes.
    by_caller: HashMap<Caller, Slot>,
    /// By when the turn of each comes.
    order: BTreeMap<Place, Slot>,
    /// The turn that it is.
    now: u64,
    /// The ranks that are still to be given, at both ends.
    first_rank: i64,
    last_rank: i64,
    len: usize,
    /// How many queues there are of each length, from 0; and the greatest that there is one of.
    lengths: Vec<usize>,
    longest: usize,
    /// Who had the longest queue when that was last looked for.
    flood: Option<Slot>,
}

/// Of a queue, among all.
type Slot = usize;

#[derive(Debug)]
struct Queue<T> {
    caller: Caller,
    items: VecDeque<T>,
    place: Place,
}

/// When it is somebody's turn: after so many rows for each of the others, and among those who come
/// then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    turn: u64,
    rank: i64,
}

/// What waits for its turn.
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

    /// Adds what has just come. If there are `max` already, one has to go, and is returned: the last
    /// of somebody who has many waiting, so that a flood is turned away before anybody else is.
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

    /// Puts something before all else, of this caller's and of the others'.
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

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<T> {
        while self.len > 0 {
            let (place, slot) = self.order.pop_first()?;
            // Front places do not turn it back.
            self.now = self.now.max(place.turn);
            let Some(item) = self.change(slot, VecDeque::pop_front) else {
                // It has paid for what it had.
                self.forget(slot);
                continue;
            };
            let place = self.last_place(self.now + item.command().rows() as u64);
            self.put(slot, place);
            if self.len == 0 {
                // Nobody is kept waiting by what anybody has had.
                self.clear();
            }
            return Some(item);
        }
        None
    }

    /// Takes out what is late, of that which is the first of its caller's.
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

    /// The first of each caller's, which has waited longest.
    pub fn firsts(&self) -> impl Iterator<Item = &T> {
        self.queues.iter().filter_map(|(_, queue)| queue.items.front())
    }

    /// Behind all others of a turn.
    fn last_place(&mut self, turn: u64) -> Place {
        let place = Place { turn, rank: self.last_rank };
        self.last_rank += 1;
        place
    }

    /// A queue for somebody who has none.
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

    /// Changes a queue, and keeps the counts.
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
        // A queue has changed by one, so that there is one of the length below.
        if self.lengths[self.longest] == 0 {
            self.longest = after;
        }
        done
    }

    /// An empty queue is one no more.
    fn forget(&mut self, slot: Slot) {
        let queue = self.queues.remove(slot);
        self.by_caller.remove(&queue.caller);
        // The next in this slot is somebody else.
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

    /// Somebody who has more than so many waiting, and at least half as many as anybody has. Looks
    /// through all only if the last one has not.
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

    /// Of a partner, with so many rows.
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

    /// What waits, taken one by one.
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

    /// As what is deferred: the last of them is put in first.
    #[test]
    fn what_is_put_in_front_keeps_its_order() {
        let mut turns = turns(&[("d", 1), ("a", 1)]);
        for (partner, number) in [("c", 9), ("a", 8), ("b", 7), ("a", 6)] {
            turns.push_front(command(partner, 1, number));
        }
        assert_eq!(taken(&mut turns), "a6 b7 c9 d0 a8 a1");
    }

    /// One after the other, as by a client that waits for its answer, is no way around it.
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
        // Its own, as nobody has more.
        assert_eq!(push("a", 100), Some(100));
        // Its last, one after the other, until all have about the same.
        let refused: Vec<_> = (10..15).map(|number| push("b", number)).collect();
        assert_eq!(refused, [Some(7), Some(6), Some(5), Some(4), Some(14)]);
        assert_eq!(push("c", 20), Some(3));
        assert_eq!(taken(&mut turns), "a0 b10 c20 a1 b11 a2 b12 b13");
    }

    /// To take the place of who has as many would only turn the two around.
    #[test]
    fn who_would_have_as_many_is_turned_away() {
        let mut turns = turns(&[("a", 1); 3]);
        assert_eq!(turns.push_back(command("b", 1, 10), 3).map(|refused| refused.1), Some(2));
        assert_eq!(turns.push_back(command("b", 1, 11), 3).map(|refused| refused.1), Some(11));
    }

    /// However many there are who have little.
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

    /// Whoever was the flood may be gone since, and another in its place.
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

    /// The one who was found before is it no more; another has more than the one who comes.
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

    /// Gone while others wait, and not just when all are gone: the flood, too.
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
