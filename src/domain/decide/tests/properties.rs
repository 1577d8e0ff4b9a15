//! Properties of random batches.

use super::*;

#[derive(Clone, Debug)]
struct Case {
    event: Event,
    stored: Vec<Reservation>,
    commands: Vec<Command>,
}

/// Few ids and keys, so that commands often concern the same ones.
fn case() -> impl Strategy<Value = Case> {
    let end = prop::sample::select(vec![PAST - Duration::SECOND, PAST, NOW, SOON, LATE]);
    let status = prop::sample::select(Status::ALL.to_vec());
    // Stored reservations have ids from 0, and each key at most once.
    let rows = prop::collection::vec((1..=10, status, end), 0..6).prop_map(|rows| {
        let keys = [None, Some("a"), None, Some("b"), None, None];
        let row = |(number, (seats, status, end)): (usize, (i32, Status, Timestamp))| {
            let made = stored(number as u128, seats, status, keys[number]);
            Reservation { hold_expires_at: (status == Status::Held).then_some(end), ..made }
        };
        rows.into_iter().enumerate().map(row).collect::<Vec<_>>()
    });
    let closes = prop::sample::select(vec![None, None, None, None, Some(NOW), Some(SOON)]);
    let status = prop::sample::select(vec![
        EventStatus::OnSale,
        EventStatus::OnSale,
        EventStatus::OnSale,
        EventStatus::Paused,
    ]);
    let event = (0..60, status, closes).prop_map(|(available_seats, status, sales_close_at)| {
        Event { status, sales_close_at, ..event(available_seats) }
    });
    let commands = prop::collection::vec(command(), 0..40).prop_map(|mut commands| {
        for (number, command) in commands.iter_mut().enumerate() {
            if let Command::Reserve(reserve) = command {
                for (place, item) in reserve.items.iter_mut().enumerate() {
                    item.id = id(1_000_000 + 10 * number as u128 + place as u128);
                }
            }
        }
        commands
    });
    (event, rows, commands).prop_map(|(event, stored, commands)| Case { event, stored, commands })
}

fn command() -> impl Strategy<Value = Command> {
    let key = prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(vec![Some("a"), Some("b"), Some("c")]),
    ];
    let condition = || {
        prop_oneof![
            8 => Just(Precondition::Any),
            1 => Just(at_version(41)),
            1 => Just(at_version(40)),
        ]
    };
    let action = prop_oneof![
        Just(Action::Cancel),
        Just(Action::Confirm),
        Just(Action::Extend(HoldTime::new(60).expect("a hold time"))),
        (1..12_i64).prop_map(|seats| Action::Shrink(SeatCount::new(seats).expect("few"))),
    ];
    let item = (1..=11, any::<bool>()).prop_map(|(seats, held)| {
        let hold = held.then(|| HoldTime::new(60).expect("a hold time"));
        Item { hold, ..item(0, seats) }
    });
    prop_oneof![
        12 => (prop::collection::vec(item, 1..3), key, condition())
            .prop_map(|(items, key, condition)| reserve_all(items, key, condition)),
        8 => (0_u128..8, action, condition()).prop_map(|(number, action, precondition)| {
            Command::Alter(Alter { id: id(number), action, precondition, by: Caller::Anybody })
        }),
        1 => (900..1100_i64).prop_map(resize),
        1 => prop::sample::select(vec![EventStatus::OnSale, EventStatus::Paused]).prop_map(switch),
        1 => Just(Command::Sweep),
    ]
}

/// What the earlier commands of a batch did, derived from their verdicts, not from running
/// counters.
#[derive(Default)]
struct Earlier {
    taken: i32,
    freed: bool,
    keys: Vec<IdempotencyKey>,
    version_used: bool,
    altered: Vec<ReservationId>,
    wrote: bool,
    event_changed: bool,
    /// Seats may have been needed, or a sweep ran: any hold past its time may be expired.
    may_have_expired: bool,
}

impl Earlier {
    fn than(case: &Case, verdicts: &[Verdict], index: usize) -> Self {
        let mut earlier = Self::default();
        for (command, verdict) in case.commands[..index].iter().zip(&verdicts[..index]) {
            earlier.add(case, command, verdict);
        }
        earlier
    }

    fn add(&mut self, case: &Case, command: &Command, verdict: &Verdict) {
        match (command, verdict) {
            (Command::Reserve(wanted), Verdict::Accepted(Acceptance::Reserved(_))) => {
                self.taken += wanted.seats();
                self.keys.extend(wanted.key.clone());
                self.version_used |= wanted.precondition != Precondition::Any;
                self.wrote = true;
                self.may_have_expired |= self.taken > case.event.available_seats;
            }
            (Command::Reserve(_), Verdict::Refused(Refusal::SalesClosed { status, .. })) => {
                self.event_changed |= *status != case.event.status;
            }
            (Command::Alter(wanted), _) if case.is_due(wanted.id) => {
                self.altered.push(wanted.id);
                self.wrote = true;
            }
            (Command::Alter(wanted), Verdict::Accepted(Acceptance::Altered(_))) => {
                self.altered.push(wanted.id);
                self.freed |= matches!(wanted.action, Action::Shrink(_));
                self.wrote = true;
            }
            (Command::Alter(wanted), Verdict::Accepted(Acceptance::Cancelled)) => {
                self.altered.push(wanted.id);
                self.freed = true;
                self.wrote = true;
            }
            (Command::Sweep, Verdict::Accepted(_)) => {
                self.wrote |= case.due_seats() > 0;
                self.may_have_expired |= case.due_seats() > 0;
            }
            (_, Verdict::Accepted(Acceptance::EventChanged(_))) => self.event_changed = true,
            _ => {}
        }
    }
}

impl Case {
    fn find(&self, id: ReservationId) -> Option<&Reservation> {
        self.stored.iter().find(|made| made.id == id)
    }

    fn is_due(&self, id: ReservationId) -> bool {
        self.find(id).is_some_and(|made| {
            made.status == Status::Held && made.hold_expires_at.expect("a hold has an end") <= NOW
        })
    }

    fn due_seats(&self) -> i32 {
        let due = self.stored.iter().filter(|made| self.is_due(made.id));
        due.map(|made| made.seats).sum()
    }

    /// The verdicts that the rules allow for a command, in short form.
    fn allowed(&self, verdicts: &[Verdict], index: usize) -> Vec<String> {
        let earlier = Earlier::than(self, verdicts, index);
        if earlier.event_changed {
            return vec!["deferred".into()];
        }
        let left = self.event.available_seats + self.due_seats() - earlier.taken;
        match &self.commands[index] {
            Command::Reserve(wanted) => self.reserve(&earlier, wanted, left),
            Command::Alter(wanted) => self.alter(&earlier, wanted),
            Command::ChangeEvent(_) if earlier.wrote => vec!["deferred".into()],
            Command::ChangeEvent(wanted) => {
                let Event { total_seats, status, available_seats, .. } = self.event;
                let wanted_seats = wanted.total_seats.map_or(total_seats, TotalSeats::get);
                let lost = total_seats - wanted_seats;
                vec![if lost == 0 && wanted.status.unwrap_or(status) == status {
                    "event-unchanged".into()
                } else if lost > left {
                    format!("taken:{}", total_seats - left)
                } else {
                    // As many due holds as needed are expired; all of their seats become available.
                    let needed = (lost - available_seats).max(0);
                    let mut due: Vec<_> =
                        self.stored.iter().filter(|made| self.is_due(made.id)).collect();
                    due.sort_by_key(|made| (made.hold_expires_at, made.id));
                    let mut gained = 0;
                    for hold in due {
                        if gained < needed {
                            gained += hold.seats;
                        }
                    }
                    format!("event:{}/{wanted_seats}", available_seats + gained - lost)
                }]
            }
            Command::Sweep => vec!["swept".into()],
        }
    }

    fn reserve(&self, earlier: &Earlier, wanted: &Reserve, left: i32) -> Vec<String> {
        let made = self.stored.iter().find(|made| {
            made.keyed.as_ref().is_some_and(|keyed| Some(&keyed.key) == wanted.key.as_ref())
        });
        if let Some(made) = made {
            let same = wanted.items.len() == 1
                && wanted.items[0].hold.is_none()
                && wanted.items[0].seats.get() == made.seats;
            let shown = format!("replayed:{}", made.status.as_str());
            return if !same {
                vec!["reused".into()]
            } else if earlier.altered.contains(&made.id) {
                vec!["deferred".into()]
            } else if earlier.may_have_expired && self.is_due(made.id) {
                vec!["deferred".into(), shown]
            } else {
                vec![shown]
            };
        }
        let on_sale = self.event.status == EventStatus::OnSale;
        let over = self.event.sales_close_at == Some(NOW);
        vec![if wanted.key.as_ref().is_some_and(|key| earlier.keys.contains(key)) {
            "deferred".into()
        } else if wanted.items.iter().any(|item| item.seats.get() > 10) {
            "at-most:10".into()
        } else if wanted.precondition == at_version(40) {
            "is-at:41".into()
        } else if earlier.version_used && wanted.precondition != Precondition::Any {
            "deferred".into()
        } else if !on_sale {
            format!("closed:{}", self.event.status.as_str())
        } else if over {
            if earlier.wrote { "deferred".into() } else { "closed:ended".into() }
        } else if wanted.seats() <= left {
            let each: Vec<_> =
                wanted.items.iter().map(|item| item.seats.get().to_string()).collect();
            format!("made:{}", each.join("+"))
        } else if earlier.freed {
            "deferred".into()
        } else {
            format!("short:{left}")
        }]
    }

    fn alter(&self, earlier: &Earlier, wanted: &Alter) -> Vec<String> {
        if earlier.altered.contains(&wanted.id) {
            return vec!["deferred".into()];
        }
        let Some(found) = self.find(wanted.id) else { return vec!["not-found".into()] };
        let over = self.is_due(wanted.id) || found.status == Status::Expired;
        let cancel = wanted.action == Action::Cancel;
        let mut allowed = vec![match (found.status, wanted.action) {
            _ if over => if cancel { "not-found" } else { "hold-expired" }.into(),
            (Status::Cancelled, Action::Cancel) => "not-found".into(),
            _ if wanted.precondition == at_version(41) => "is-at:40".into(),
            (Status::Cancelled, _) => "is-cancelled".into(),
            (_, Action::Cancel) => "cancelled".into(),
            (Status::Confirmed, Action::Confirm) => "unaltered".into(),
            (_, Action::Confirm) => format!("confirmed:{}", found.seats),
            (Status::Confirmed, Action::Extend(_)) => "is-confirmed".into(),
            (_, Action::Extend(_)) => format!("held:{}", found.seats),
            (_, Action::Shrink(seats)) if seats.get() > found.seats => {
                format!("has-only:{}", found.seats)
            }
            (_, Action::Shrink(seats)) if seats.get() == found.seats => "unaltered".into(),
            (status, Action::Shrink(seats)) => format!("{}:{}", status.as_str(), seats.get()),
        }];
        if earlier.may_have_expired && self.is_due(wanted.id) {
            allowed.push("deferred".into());
        }
        allowed
    }
}

fn owned(made: &Reservation) -> i32 {
    if made.status.owns_seats() { made.seats } else { 0 }
}

fn held(made: &Reservation) -> i32 {
    if made.status == Status::Held { made.seats } else { 0 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, ..ProptestConfig::default() })]

    #[test]
    fn every_outcome_is_explained(case in case()) {
        let decision = decided_on(&case.event, &case.stored, &case.commands);
        prop_assert_eq!(decision.verdicts.len(), case.commands.len());
        for (index, verdict) in decision.verdicts.iter().enumerate() {
            let allowed = case.allowed(&decision.verdicts, index);
            let found = short(verdict);
            prop_assert!(allowed.contains(&found), "command {}: {} of {:?}", index, found, allowed);
        }
    }

    /// The rows are what was granted, in the same order, and holds past their time; the counters
    /// agree with the rows.
    #[test]
    fn what_is_written_is_what_was_granted(case in case()) {
        let decision = decided_on(&case.event, &case.stored, &case.commands);
        let mut granted = Vec::new();
        for verdict in &decision.verdicts {
            match verdict {
                Verdict::Accepted(Acceptance::Reserved(made)) => granted.extend(made.clone()),
                Verdict::Accepted(Acceptance::Altered(made)) => granted.push(made.clone()),
                _ => {}
            }
        }
        let cancels = decision.verdicts.iter().filter(|verdict| {
            matches!(verdict, Verdict::Accepted(Acceptance::Cancelled))
        });
        let (mut net_held, mut net_confirmed, mut net_seats) = (0, 0, 0);
        let (mut shown, mut cancelled) = (Vec::new(), 0);
        let mut names = std::collections::BTreeSet::new();
        for Change { kind, seats, reservation: after, previous_version, .. } in &decision.changes {
            prop_assert!(names.insert(after.id), "each row once");
            prop_assert_eq!(after.version, 42);
            let before = case.find(after.id);
            prop_assert_eq!(*previous_version, before.map(|before| before.version));
            let makes = matches!(kind, ChangeKind::Reserved | ChangeKind::Held);
            prop_assert_eq!(makes, before.is_none());
            prop_assert_eq!(kind.status().unwrap_or(after.status), after.status);
            let taken = owned(after) - before.map_or(0, owned);
            prop_assert_eq!(kind.seats_taken((*seats).into()), i64::from(taken));
            net_seats += taken;
            net_held += held(after) - before.map_or(0, held);
            net_confirmed += i64::from(after.status == Status::Confirmed)
                - i64::from(before.is_some_and(|before| before.status == Status::Confirmed));
            match kind {
                ChangeKind::Expired => prop_assert!(case.is_due(after.id)),
                ChangeKind::Cancelled => cancelled += 1,
                _ => shown.push(after.clone()),
            }
        }
        if let Some(total_seats) = decision.event_change.as_ref().and_then(|it| it.total_seats) {
            net_seats += case.event.total_seats - total_seats;
        }
        prop_assert_eq!(shown, granted);
        prop_assert_eq!(cancelled, cancels.count());
        prop_assert_eq!(decision.net_seats, net_seats);
        prop_assert_eq!(decision.net_held, net_held);
        prop_assert_eq!(decision.net_confirmed, net_confirmed);
    }

    /// Batch after batch, as the batcher runs them: at every version the seats are conserved and
    /// never below zero, and every command is answered in the end.
    #[test]
    fn seats_are_conserved_until_everything_is_answered(case in case()) {
        let mut event = case.event.clone();
        let mut made = case.stored.clone();
        // Seats of all other reservations: whatever makes the total come out right.
        let others = event.total_seats - event.available_seats - made.iter().map(owned).sum::<i32>();
        event.held_seats = made.iter().map(held).sum();
        let mut waiting = case.commands.clone();
        while !waiting.is_empty() {
            let decision = decided_on(&event, &made, &waiting);
            event.available_seats -= decision.net_seats;
            event.held_seats += decision.net_held;
            event.version += 1;
            if let Some(change) = &decision.event_change {
                change.apply(&mut event);
            }
            for change in decision.changes {
                let id = change.reservation.id;
                match made.iter_mut().find(|made| made.id == id) {
                    Some(made) => *made = change.reservation,
                    None => made.push(change.reservation),
                }
            }
            prop_assert!(event.available_seats >= 0);
            let owned = made.iter().map(owned).sum::<i32>();
            prop_assert_eq!(event.available_seats + owned + others, event.total_seats);
            prop_assert_eq!(event.held_seats, made.iter().map(held).sum::<i32>());
            let before = waiting.len();
            let verdicts = decision.verdicts.into_iter();
            waiting = waiting
                .into_iter()
                .zip(verdicts)
                .filter(|(_, verdict)| *verdict == Verdict::Deferred)
                .map(|(command, _)| command)
                .collect();
            prop_assert!(waiting.len() < before, "each batch answers someone");
        }
    }
}
