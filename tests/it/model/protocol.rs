//! The steps of the commit protocol.

use stateright::semantics::{ConsistencyTester as _, LinearizabilityTester};

use super::seats::{Seats, Told};

/// A request to the event. Commands are named by their position in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    Reserve {
        seats: u8,
        key: Option<u8>,
    },
    /// Cancels the reservation that this command made.
    Cancel(usize),
}

/// The rules that can be left out.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub version_guard: bool,
    pub fresh_refusals: bool,
    /// A refused command is answered only once its batch is committed.
    pub refusals_wait: bool,
    /// An unknown outcome is settled by resending the same batch for the same version, not by
    /// deciding again.
    pub resend: bool,
    /// A commit is recognised by the batch's id, not by the state of the reservations.
    pub ask_journal: bool,
    pub unique_key: bool,
    pub commit_first: bool,
}

impl Rules {
    pub const ALL: Self = Self {
        version_guard: true,
        fresh_refusals: true,
        refusals_wait: true,
        resend: true,
        ask_journal: true,
        unique_key: true,
        commit_first: true,
    };
}

#[derive(Clone, Debug)]
pub struct Protocol {
    pub seats: u8,
    pub commands: Vec<Command>,
    /// At most this many answers are lost, and this many replicas crash.
    pub losses: u8,
    pub crashes: u8,
    pub rules: Rules,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub database: Database,
    replicas: [Replica; 2],
    /// Statements whose connection is gone, but which may still run.
    late: Vec<Batch>,
    batches: u8,
    submitted: Vec<bool>,
    /// What each caller was told.
    pub ended: Vec<Option<Ended>>,
    losses: u8,
    crashes: u8,
    /// The calls and answers, as callers see them.
    pub history: LinearizabilityTester<usize, Seats>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ended {
    Granted,
    Replayed(usize),
    Refused,
    /// The caller was told so, or was told nothing at all.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    version: u8,
    free: u8,
    /// Whether each command has made a reservation, and whether that is still active.
    made: Vec<Option<bool>>,
    /// The batch of each version, from 1.
    journal: Vec<u8>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Replica {
    waiting: Vec<usize>,
    in_hand: Vec<usize>,
    /// Version and free seats after its last commit.
    remembered: Option<(u8, u8)>,
    phase: Phase,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    /// It has read the event for the commands in hand.
    HasRead(Database),
    /// The statement is on its way, or has run.
    Sent { batch: Batch, again: bool, result: Option<Result> },
    /// It is unknown whether the statement ran.
    Unknown(Batch),
    /// The batch was resent, and the version had moved.
    Moved(Batch),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Result {
    Committed(u8, u8),
    VersionMoved,
    KeyTaken,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Batch {
    id: u8,
    from: u8,
    verdicts: Vec<(usize, Verdict)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Verdict {
    Granted,
    Replay(usize),
    Refused,
    Deferred,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Submit(usize, usize),
    Read(usize),
    /// Decides, and sends what is granted.
    Send(usize),
    Run(usize),
    Answer(usize),
    /// The connection breaks: before the statement ran, or after.
    Lose(usize),
    SendAgain(usize),
    AskJournal(usize),
    GiveUp(usize),
    RunLate(usize),
    /// The late statement never runs.
    Forget(usize),
    Crash(usize),
}

impl Protocol {
    pub fn begin(&self) -> State {
        let count = self.commands.len();
        State {
            database: Database {
                version: 0,
                free: self.seats,
                made: vec![None; count],
                journal: Vec::new(),
            },
            replicas: Default::default(),
            late: Vec::new(),
            batches: 0,
            submitted: vec![false; count],
            ended: vec![None; count],
            losses: self.losses,
            crashes: self.crashes,
            history: LinearizabilityTester::new(Seats::new(self.seats, &self.commands)),
        }
    }

    pub fn possible(&self, state: &State, actions: &mut Vec<Action>) {
        for (command, submitted) in state.submitted.iter().enumerate() {
            if !submitted {
                actions.extend((0..2).map(|replica| Action::Submit(command, replica)));
            }
        }
        for (number, replica) in state.replicas.iter().enumerate() {
            match &replica.phase {
                Phase::Idle if !replica.waiting.is_empty() => {
                    actions.push(Action::Read(number));
                    if self.decides_from_memory(replica) {
                        actions.push(Action::Send(number));
                    }
                }
                Phase::Idle => {}
                Phase::HasRead(_) => actions.push(Action::Send(number)),
                Phase::Sent { result, .. } => {
                    let run = result.is_none();
                    actions.push(if run { Action::Run(number) } else { Action::Answer(number) });
                    if state.losses > 0 {
                        actions.push(Action::Lose(number));
                    }
                }
                Phase::Unknown(_) => {
                    actions.extend([Action::SendAgain(number), Action::GiveUp(number)]);
                }
                Phase::Moved(_) => {
                    actions.extend([Action::AskJournal(number), Action::GiveUp(number)]);
                }
            }
            let busy = replica.phase != Phase::Idle || !replica.waiting.is_empty();
            if state.crashes > 0 && busy {
                actions.push(Action::Crash(number));
            }
        }
        for late in 0..state.late.len() {
            actions.extend([Action::RunLate(late), Action::Forget(late)]);
        }
    }

    pub fn take(&self, state: &mut State, action: Action) {
        match action {
            Action::Submit(command, replica) => {
                state.submitted[command] = true;
                state.replicas[replica].waiting.push(command);
                state.history.on_invoke(command, command).expect("each is called once");
            }
            Action::Read(number) => {
                let replica = &mut state.replicas[number];
                replica.in_hand = std::mem::take(&mut replica.waiting);
                replica.phase = Phase::HasRead(state.database.clone());
            }
            Action::Send(number) => self.send(state, number),
            Action::Run(number) => {
                let State { replicas, database, .. } = state;
                if let Phase::Sent { batch, result, .. } = &mut replicas[number].phase {
                    *result = Some(self.run(database, batch));
                }
            }
            Action::Answer(number) => self.answer(state, number),
            Action::Lose(number) => {
                state.losses -= 1;
                let replica = &mut state.replicas[number];
                if let Phase::Sent { batch, result, .. } = std::mem::take(&mut replica.phase) {
                    if result.is_none() {
                        state.late.push(batch.clone());
                    }
                    replica.phase = Phase::Unknown(batch);
                    if !self.rules.resend {
                        self.decide_again(&mut state.replicas[number]);
                    }
                }
            }
            Action::SendAgain(number) => {
                let phase = &mut state.replicas[number].phase;
                if let Phase::Unknown(batch) = phase {
                    *phase = Phase::Sent { batch: batch.clone(), again: true, result: None };
                }
            }
            Action::AskJournal(number) => self.ask_journal(state, number),
            Action::GiveUp(number) => {
                let in_hand = std::mem::take(&mut state.replicas[number].in_hand);
                state.replicas[number].phase = Phase::Idle;
                for command in in_hand {
                    state.ended[command].get_or_insert(Ended::Unknown);
                }
            }
            Action::RunLate(late) => {
                let batch = state.late.remove(late);
                self.run(&mut state.database, &batch);
            }
            Action::Forget(late) => drop(state.late.remove(late)),
            Action::Crash(number) => {
                state.crashes -= 1;
                let replica = std::mem::take(&mut state.replicas[number]);
                for command in replica.waiting.into_iter().chain(replica.in_hand) {
                    state.ended[command].get_or_insert(Ended::Unknown);
                }
                if let Phase::Sent { batch, result: None, .. } = replica.phase {
                    state.late.push(batch);
                }
            }
        }
        state.late.sort_by_key(|batch| batch.id);
    }

    fn decides_from_memory(&self, replica: &Replica) -> bool {
        let Some((_, free)) = replica.remembered else { return false };
        let verdicts = self.decide(free, None, &replica.waiting);
        !self.rules.fresh_refusals
            || !verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Refused)
    }

    /// Decides in order, against the base state minus what earlier commands of the batch take.
    fn decide(
        &self,
        mut free: u8,
        seen: Option<&Database>,
        commands: &[usize],
    ) -> Vec<(usize, Verdict)> {
        let made = |command: usize| seen.and_then(|seen| seen.made[command]);
        let mut cancelled = Vec::new();
        let mut keys = Vec::new();
        let mut verdicts = Vec::new();
        for command in commands {
            let verdict = match self.commands[*command] {
                Command::Reserve { seats, key } => {
                    let of_key = |other: &usize| {
                        let same =
                            matches!(self.commands[*other], Command::Reserve { key: Some(_), .. });
                        key.is_some() && same && made(*other).is_some()
                    };
                    if let Some(other) = (0..self.commands.len()).find(of_key) {
                        if cancelled.contains(&other) {
                            Verdict::Deferred
                        } else {
                            Verdict::Replay(other)
                        }
                    } else if key.is_some_and(|key| keys.contains(&key)) {
                        Verdict::Deferred
                    } else if seats > free {
                        // Freed seats are available from the next version on.
                        let freed = !cancelled.is_empty();
                        if freed { Verdict::Deferred } else { Verdict::Refused }
                    } else {
                        free -= seats;
                        keys.extend(key);
                        Verdict::Granted
                    }
                }
                Command::Cancel(other) if cancelled.contains(&other) => Verdict::Deferred,
                Command::Cancel(other) if made(other) == Some(true) => {
                    cancelled.push(other);
                    Verdict::Granted
                }
                Command::Cancel(_) => Verdict::Refused,
            };
            verdicts.push((*command, verdict));
        }
        verdicts
    }

    fn send(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let (from, verdicts) = match (&replica.phase, replica.remembered) {
            (Phase::HasRead(seen), _) => {
                (seen.version, self.decide(seen.free, Some(seen), &replica.in_hand))
            }
            (Phase::Idle, Some((version, free))) => {
                replica.in_hand = std::mem::take(&mut replica.waiting);
                (version, self.decide(free, None, &replica.in_hand))
            }
            _ => unreachable!("it has read, or remembers"),
        };
        let batch = Batch { id: state.batches, from, verdicts };
        if batch.verdicts.iter().any(|(_, verdict)| *verdict == Verdict::Granted) {
            state.batches += 1;
            for (command, verdict) in &batch.verdicts {
                let early = match verdict {
                    Verdict::Granted => !self.rules.commit_first,
                    Verdict::Refused => !self.rules.refusals_wait,
                    Verdict::Replay(_) | Verdict::Deferred => false,
                };
                if early {
                    state.end(*command, *verdict);
                }
            }
            state.replicas[number].phase = Phase::Sent { batch, again: false, result: None };
        } else {
            self.tell(state, number, &batch);
        }
    }

    /// The guarded statement.
    fn run(&self, database: &mut Database, batch: &Batch) -> Result {
        let granted = || {
            let granted = |(_, verdict): &&(usize, Verdict)| *verdict == Verdict::Granted;
            batch.verdicts.iter().filter(granted).map(|(command, _)| *command)
        };
        let (mut taken, mut freed) = (0, 0);
        for command in granted() {
            match self.commands[command] {
                Command::Reserve { seats, .. } => taken += seats,
                Command::Cancel(made) => freed += self.seats_of(made),
            }
        }
        let moved = self.rules.version_guard && database.version != batch.from;
        if moved || database.free + freed < taken {
            return Result::VersionMoved;
        }
        for command in granted() {
            let made = |other: usize| database.made[other].is_some();
            let keyed = |other: usize| {
                matches!(self.commands[other], Command::Reserve { key: Some(_), .. })
            };
            if self.rules.unique_key
                && keyed(command)
                && (0..self.commands.len()).any(|other| keyed(other) && made(other))
            {
                return Result::KeyTaken;
            }
        }
        for command in granted() {
            match self.commands[command] {
                Command::Reserve { .. } => database.made[command] = Some(true),
                Command::Cancel(made) => database.made[made] = Some(false),
            }
        }
        database.free = database.free + freed - taken;
        database.version += 1;
        database.journal.push(batch.id);
        Result::Committed(database.version, database.free)
    }

    fn seats_of(&self, command: usize) -> u8 {
        match self.commands[command] {
            Command::Reserve { seats, .. } => seats,
            Command::Cancel(_) => 0,
        }
    }

    fn answer(&self, state: &mut State, number: usize) {
        let replica = &mut state.replicas[number];
        let Phase::Sent { batch, again, result: Some(result) } = std::mem::take(&mut replica.phase)
        else {
            unreachable!("it has run")
        };
        match result {
            Result::Committed(version, free) => {
                replica.remembered = Some((version, free));
                self.tell(state, number, &batch);
            }
            // The first send had the same rows and the same version, so that it fails in the same
            // way.
            Result::KeyTaken => self.decide_again(replica),
            Result::VersionMoved if again => replica.phase = Phase::Moved(batch),
            Result::VersionMoved => self.decide_again(replica),
        }
    }

    fn ask_journal(&self, state: &mut State, number: usize) {
        let Phase::Moved(batch) = state.replicas[number].phase.clone() else { return };
        state.replicas[number].remembered = None;
        let by_id = state.database.journal.get(usize::from(batch.from)) == Some(&batch.id);
        let looks_done = || {
            let done = |(command, verdict): &(usize, Verdict)| {
                *verdict != Verdict::Granted
                    || match self.commands[*command] {
                        Command::Reserve { .. } => state.database.made[*command].is_some(),
                        Command::Cancel(made) => state.database.made[made] == Some(false),
                    }
            };
            batch.verdicts.iter().all(done)
        };
        if if self.rules.ask_journal { by_id } else { looks_done() } {
            self.tell(state, number, &batch);
        } else {
            self.decide_again(&mut state.replicas[number]);
        }
    }

    /// The commands in hand go back to the head of the waiting ones.
    fn decide_again(&self, replica: &mut Replica) {
        let mut waiting = std::mem::take(&mut replica.in_hand);
        waiting.append(&mut replica.waiting);
        replica.waiting = waiting;
        replica.remembered = None;
        replica.phase = Phase::Idle;
    }

    /// Answers a batch whose outcome is known; deferred commands wait for the next one.
    fn tell(&self, state: &mut State, number: usize, batch: &Batch) {
        let mut deferred = Vec::new();
        for (command, verdict) in &batch.verdicts {
            match verdict {
                Verdict::Deferred => deferred.push(*command),
                Verdict::Granted | Verdict::Replay(_) | Verdict::Refused => {
                    state.end(*command, *verdict);
                }
            }
        }
        let replica = &mut state.replicas[number];
        replica.in_hand.clear();
        deferred.append(&mut replica.waiting);
        replica.waiting = deferred;
        replica.phase = Phase::Idle;
    }
}

impl State {
    /// Answers a caller, unless it has been answered already.
    fn end(&mut self, command: usize, verdict: Verdict) {
        let (ended, told) = match verdict {
            Verdict::Granted => (Ended::Granted, Told::Done),
            Verdict::Replay(made) => (Ended::Replayed(made), Told::Done),
            Verdict::Refused => (Ended::Refused, Told::Refused),
            Verdict::Deferred => return,
        };
        if self.ended[command].is_none() {
            self.ended[command] = Some(ended);
            self.history.on_return(command, told).expect("it was called");
        }
    }
}

impl Database {
    /// The free seats and those of active reservations add up to all seats, and each version has a
    /// journal row.
    pub fn conserves(&self, model: &Protocol) -> bool {
        let there = self.made.iter().enumerate().filter(|(_, made)| **made == Some(true));
        let owned: u8 = there.map(|(command, _)| model.seats_of(command)).sum();
        self.free + owned == model.seats && self.journal.len() == usize::from(self.version)
    }

    /// Whether the reservation was made, or, for a cancel, the named reservation is gone.
    pub fn has_done(&self, model: &Protocol, command: usize) -> bool {
        match model.commands[command] {
            Command::Reserve { .. } => self.made[command].is_some(),
            Command::Cancel(made) => self.made[made] == Some(false),
        }
    }
}
