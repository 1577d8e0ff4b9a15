//! API keys: who is calling, and with which rights.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::{PartnerId, Timestamp, is_line};

/// The public part of a key: 16 lower-case hexadecimal digits. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// In bytes, which here are characters.
    pub const LENGTH: usize = 16;

    /// `None` unless the text matches `^[0-9a-f]{16}$`.
    pub fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == Self::LENGTH
            && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Lets maps be searched by the text that a request contains.
impl Borrow<str> for KeyId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The display name of a key: 1 to 128 characters, not blank, without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyName(Arc<str>);

impl KeyName {
    /// Unicode scalar values, not bytes.
    pub const LENGTH_MAX: usize = 128;

    /// `None` if the text is blank, too long, or contains a control character.
    pub fn parse(text: &str) -> Option<Self> {
        (is_line(text, Self::LENGTH_MAX) && !text.trim().is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What a key allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Books for this partner, and sees what belongs to it.
    Partner(PartnerId),
    /// Sees everything, and changes nothing.
    Read,
    /// Sees and changes everything, including keys.
    Operator,
}

impl Scope {
    /// The words in the API and in the table, from the narrowest scope to the widest.
    pub const WORDS: [&'static str; 3] = ["partner", "read", "operator"];

    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Partner(_) => Self::WORDS[0],
            Self::Read => Self::WORDS[1],
            Self::Operator => Self::WORDS[2],
        }
    }

    /// `None` for an unknown word, for a partner's scope without a partner, and for any other scope
    /// with one.
    pub fn of(word: &str, partner_id: Option<PartnerId>) -> Option<Self> {
        match (word, partner_id) {
            ("partner", Some(partner_id)) => Some(Self::Partner(partner_id)),
            ("read", None) => Some(Self::Read),
            ("operator", None) => Some(Self::Operator),
            _ => None,
        }
    }
}

/// The SHA-256 of a key's secret.
pub type SecretHash = [u8; 32];

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    pub id: KeyId,
    pub secret_hash: SecretHash,
    pub name: KeyName,
    pub scope: Scope,
    pub expires_at: Option<Timestamp>,
    /// The key that authorised the request; `None` for a key made on the command line.
    pub made_by: Option<KeyId>,
}

/// A key as it is shown: never with its secret.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: KeyId,
    pub name: KeyName,
    pub scope: Scope,
    pub created_at: Timestamp,
    pub made_by: Option<KeyId>,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub revoked_by: Option<KeyId>,
    /// Accurate to about ten seconds.
    pub last_used_at: Option<Timestamp>,
}

/// Who asks for a change, as far as is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Caller {
    /// Access control is off, or the service itself is the caller.
    #[default]
    Anybody,
    /// May touch only what belongs to this partner.
    Partner(PartnerId),
    /// May touch everything; the journal names the key.
    Operator(KeyId),
}

impl Caller {
    /// Whether this caller may touch a reservation of this partner.
    pub fn may_touch(&self, partner_id: &PartnerId) -> bool {
        match self {
            Self::Anybody | Self::Operator(_) => true,
            Self::Partner(own) => own == partner_id,
        }
    }

    /// The key that the journal records, if any.
    pub fn operator_key(&self) -> Option<&KeyId> {
        match self {
            Self::Anybody | Self::Partner(_) => None,
            Self::Operator(key_id) => Some(key_id),
        }
    }
}
