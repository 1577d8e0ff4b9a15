//! Model checking: the commit protocol, checked exhaustively with all interleavings, losses and
//! crashes.
//!
//! This is a model, not the engine: it states what the replicas do, in as few steps as possible,
//! and the checker tries every order of these steps. Two replicas serve up to three commands of one
//! event, answers are lost before and after the statement ran, statements land late or never,
//! replicas crash. Each rule can be left out, and then the checker has to find what goes wrong.

use stateright::semantics::ConsistencyTester as _;
use stateright::{Checker as _, Model, Property};

mod protocol;
mod seats;

use protocol::{Action, Command, Ended, Protocol, Rules, State};

/// The configuration of a run of the checker.
fn protocol(seats: u8, commands: &[Command], losses: u8, crashes: u8, rules: Rules) -> Protocol {
    Protocol { seats, commands: commands.to_vec(), losses, crashes, rules }
}

use Command::{Cancel, Reserve};

/// Two bookings of the last seat; a cancel that frees the seat which another booking needs; two
/// cancels of the same reservation; two bookings with one key; and three that do not all fit.
const SCENARIOS: &[(u8, &[Command])] = &[
    (1, &[Reserve { seats: 1, key: None }, Reserve { seats: 1, key: None }]),
    (1, &[Reserve { seats: 1, key: None }, Cancel(0), Reserve { seats: 1, key: None }]),
    (1, &[Reserve { seats: 1, key: None }, Cancel(0), Cancel(0)]),
    (
        2,
        &[
            Reserve { seats: 1, key: Some(1) },
            Reserve { seats: 1, key: Some(1) },
            Reserve { seats: 1, key: None },
        ],
    ),
    (
        2,
        &[
            Reserve { seats: 2, key: None },
            Reserve { seats: 1, key: None },
            Reserve { seats: 1, key: None },
        ],
    ),
];

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![self.begin()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        self.possible(state, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.take(&mut next, action);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no seat is sold twice, lost or stranded",
                |model: &Self, state: &State| state.database.conserves(model),
            ),
            Property::always("what was granted is there", |model: &Self, state: &State| {
                let there = |(command, ended): (usize, &Option<Ended>)| match ended {
                    Some(Ended::Granted) => state.database.has_done(model, command),
                    Some(Ended::Replayed(made)) => state.database.has_done(model, *made),
                    Some(Ended::Refused | Ended::Unknown) | None => true,
                };
                state.ended.iter().enumerate().all(there)
            }),
            Property::always("what was refused never happens", |model: &Self, state: &State| {
                let booked = |command: usize| {
                    matches!(model.commands[command], Reserve { .. })
                        && state.database.has_done(model, command)
                };
                let lies = |(command, ended): (usize, &Option<Ended>)| {
                    *ended == Some(Ended::Refused) && booked(command)
                };
                !state.ended.iter().enumerate().any(lies)
            }),
            Property::always("one key makes one reservation", |model: &Self, state: &State| {
                let keyed = |command: &usize| {
                    matches!(model.commands[*command], Reserve { key: Some(_), .. })
                        && state.database.has_done(model, *command)
                };
                (0..model.commands.len()).filter(keyed).count() <= 1
            }),
            Property::always("answers are linearizable", |_, state: &State| {
                state.history.is_consistent()
            }),
            Property::sometimes("everyone is answered", |_, state: &State| {
                state.ended.iter().all(Option::is_some)
            }),
        ]
    }
}

/// The properties that are violated.
fn violated(protocol: &Protocol) -> Vec<&'static str> {
    let checker = protocol.clone().checker().threads(2).spawn_bfs().join();
    let found = checker.discoveries();
    let always =
        found.keys().copied().filter(|name: &&str| *name != "everyone is answered").collect();
    assert!(checker.is_done());
    always
}

#[test]
fn the_protocol_keeps_its_promises_whatever_happens() {
    for (seats, commands) in SCENARIOS {
        let (losses, crashes) = if commands.len() > 2 { (1, 1) } else { (2, 1) };
        let model = protocol(*seats, commands, losses, crashes, Rules::ALL);
        let checker = model.checker().threads(2).spawn_bfs().join();
        checker.assert_properties();
        println!("{commands:?}: {} states", checker.unique_state_count());
    }
}

/// Each rule is needed: without it, the checker finds a way to break a promise.
#[test]
fn no_rule_can_be_left_out() {
    let without: &[(&str, Rules)] = &[
        ("the version guards the write", Rules { version_guard: false, ..Rules::ALL }),
        ("a refusal rests on a fresh read", Rules { fresh_refusals: false, ..Rules::ALL }),
        ("a refusal waits for its batch", Rules { refusals_wait: false, ..Rules::ALL }),
        ("what is unknown is sent again", Rules { resend: false, ..Rules::ALL }),
        ("the journal tells whose commit it was", Rules { ask_journal: false, ..Rules::ALL }),
        ("the key is unique", Rules { unique_key: false, ..Rules::ALL }),
        ("it is answered once it is committed", Rules { commit_first: false, ..Rules::ALL }),
    ];
    for (rule, rules) in without {
        let broken = SCENARIOS.iter().any(|(seats, commands)| {
            !violated(&protocol(*seats, commands, 1, 0, *rules)).is_empty()
        });
        assert!(broken, "nothing goes wrong without: {rule}");
    }
}
