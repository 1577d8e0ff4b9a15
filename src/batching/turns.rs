//! Who is next: those who wait take turns by who they are, and each one's commands keep their order.
//!
//! A turn is a row: who was given a list of a hundred sits out ninety-nine turns, as long as there
//! are others. Where nobody is known, all wait in one line, in the order of their arrival.

use std::collections::{HashMap, VecDeque};

use crate::domain::{Caller, Command};

/// What waits, of everybody.
#[derive(Debug)]
pub(super) struct Turns<T> {
    queues: HashMap<Caller, Queue<T>>,
    /// Whoever has something waiting, the next one first.
    order: VecDeque<Caller>,
    len: usize,
    /// Who had the longest queue when that was last looked for.
    longest: Option<Caller>,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<T>,
    /// Turns to sit out.
    owed: usize,
}

/// What waits for its turn.
pub(super) trait Waiting {
    fn command(&self) -> &Command;
}

impl<T: Waiting> Turns<T> {
    pub fn new() -> Self {
        Self { queues: HashMap::new(), order: VecDeque::new(), len: 0, longest: None }
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds what has just come. If there are `max` already, one has to go, and is returned: the last
    /// of whoever has most waiting, so that a flood is turned away before anybody else is.
    pub fn push_back(&mut self, item: T, max: usize) -> Option<T> {
        let mut refused = None;
        if self.len >= max {
            let own = self.queues.get(item.command().caller()).map_or(0, |own| own.items.len());
            let Some(longest) = self.longer_than(own + 1) else { return Some(item) };
            refused = self.take_last_of(&longest);
        }
        self.queue_of(item.command().caller().clone()).items.push_back(item);
        self.len += 1;
        refused
    }

    /// Puts something before all else of the same caller's. It has had its turn.
    pub fn push_front(&mut self, item: T) {
        self.queue_of(item.command().caller().clone()).items.push_front(item);
        self.len += 1;
    }

    /// Puts back what was just taken: it stays the next one.
    pub fn put_back(&mut self, item: T) {
        let caller = item.command().caller().clone();
        self.queue_of(caller.clone()).owed = 0;
        self.push_front(item);
        self.order.retain(|other| *other != caller);
        self.order.push_front(caller);
    }

    /// Takes the next one.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let caller = self.order.pop_front()?;
            let queue = self.queues.get_mut(&caller).expect("who is in the order has a queue");
            if queue.owed > 0 && !self.order.is_empty() {
                queue.owed -= 1;
                self.order.push_back(caller);
                continue;
            }
            let item = queue.items.pop_front().expect("a queue has something in it");
            self.len -= 1;
            if queue.items.is_empty() {
                self.queues.remove(&caller);
            } else {
                queue.owed = item.command().rows().saturating_sub(1);
                self.order.push_back(caller);
            }
            return Some(item);
        }
    }

    fn queue_of(&mut self, caller: Caller) -> &mut Queue<T> {
        self.queues.entry(caller).or_insert_with_key(|caller| {
            self.order.push_back(caller.clone());
            Queue { items: VecDeque::new(), owed: 0 }
        })
    }

    /// Somebody who has more than so many waiting. Looks through all only if the one who had most
    /// has not.
    fn longer_than(&mut self, own: usize) -> Option<Caller> {
        // Who has as much as everybody has on average gets nothing from the others.
        if own * self.queues.len() > self.len {
            return None;
        }
        let has_more = |queue: &Queue<T>| queue.items.len() > own;
        let known = self.longest.as_ref().and_then(|caller| self.queues.get(caller));
        if !known.is_some_and(has_more) {
            let longest = self.queues.iter().max_by_key(|(_, queue)| queue.items.len());
            self.longest =
                longest.filter(|(_, queue)| has_more(queue)).map(|(caller, _)| caller.clone());
        }
        self.longest.clone()
    }

    fn take_last_of(&mut self, caller: &Caller) -> Option<T> {
        // It has more than one.
        let last = self.queues.get_mut(caller)?.items.pop_back();
        self.len -= usize::from(last.is_some());
        last
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
        turns.put_back(next);
        assert_eq!(taken(&mut turns), "b2 c3 a1");
        let mut turns = self::turns(&[("a", 1), ("b", 1)]);
        turns.push_front(command("b", 1, 9));
        turns.push_front(command("a", 1, 8));
        assert_eq!(taken(&mut turns), "a8 b9 a0 b1");
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
}
