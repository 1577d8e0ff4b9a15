//! The specification that the protocol is checked against.

use stateright::semantics::SequentialSpec;

use super::protocol::Command;

/// The event as callers may think of it: it serves one call after the other.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seats {
    free: u8,
    made: Vec<Option<bool>>,
    commands: Vec<Command>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Told {
    Done,
    Refused,
}

impl Seats {
    pub fn new(free: u8, commands: &[Command]) -> Self {
        Self { free, made: vec![None; commands.len()], commands: commands.to_vec() }
    }
}

impl SequentialSpec for Seats {
    type Op = usize;
    type Ret = Told;

    fn invoke(&mut self, command: &usize) -> Told {
        match self.commands[*command] {
            Command::Reserve { seats, key } => {
                let replays = key.is_some()
                    && self.commands.iter().zip(&self.made).any(|(other, made)| {
                        made.is_some() && matches!(other, Command::Reserve { key: Some(_), .. })
                    });
                if replays {
                    return Told::Done;
                }
                if seats > self.free {
                    return Told::Refused;
                }
                self.free -= seats;
                self.made[*command] = Some(true);
                Told::Done
            }
            Command::Cancel(other) => {
                if self.made[other] != Some(true) {
                    return Told::Refused;
                }
                self.made[other] = Some(false);
                if let Command::Reserve { seats, .. } = self.commands[other] {
                    self.free += seats;
                }
                Told::Done
            }
        }
    }
}
