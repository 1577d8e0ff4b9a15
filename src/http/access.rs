//! Who may call what. A handler's signature names the callers it is for; it does not run for any
//! others.

use std::ops::Deref;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::AUTHORIZATION;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use futures_util::FutureExt as _;
use futures_util::future::{Either, LocalBoxFuture, Ready, ready};

use super::App;
use super::problem::{Code, Problem};
use super::rates::{self, Rates};
use crate::access::{Account, Denied, Identification, KeyRing, KnownKey};
use crate::domain::{Caller, Key, KeyId, PartnerId, PartnerLimits, Scope};

/// Whether callers need a key.
pub enum Access {
    /// They do not: everybody may do everything.
    Off,
    Keys(Guard),
}

/// Which keys are accepted, and the limits that apply to them.
pub struct Guard {
    pub ring: KeyRing,
    pub rates: Rates,
    pub limits: PartnerLimits,
}

/// The caller; `None` without access control.
#[derive(Clone)]
pub struct Identity(Option<Arc<KnownKey>>);

impl Identity {
    fn key(&self) -> Option<&Key> {
        self.0.as_deref().map(|known| &known.key)
    }

    /// The caller as the engine knows it.
    pub fn caller(&self) -> Caller {
        match self.key() {
            None | Some(Key { scope: Scope::Read, .. }) => Caller::Anybody,
            Some(Key { scope: Scope::Partner(partner_id), .. }) => {
                Caller::Partner(partner_id.clone())
            }
            Some(Key { scope: Scope::Operator, id, .. }) => Caller::Operator(id.clone()),
        }
    }

    /// The only partner that the caller acts for, if its key is a partner's.
    pub fn partner(&self) -> Option<&PartnerId> {
        match self.key()?.scope {
            Scope::Partner(ref partner_id) => Some(partner_id),
            Scope::Read | Scope::Operator => None,
        }
    }

    pub fn key_id(&self) -> Option<&KeyId> {
        self.key().map(|key| &key.id)
    }

    /// What the caller shares with all keys of its partner; `None` without access control.
    pub fn account(&self) -> Option<&Account> {
        self.0.as_deref().map(|known| &*known.account)
    }

    /// The key, for checking later whether it is still valid.
    pub fn held(&self, access: &Access) -> Option<HeldKey> {
        match access {
            Access::Off => None,
            Access::Keys(Guard { ring, .. }) => {
                Some(HeldKey { ring: ring.clone(), id: self.key_id()?.clone() })
            }
        }
    }

    /// The partner that a request is about. A caller with a partner's key need not name it.
    pub fn about(&self, named: Option<PartnerId>) -> Result<Option<PartnerId>, Problem> {
        match (self.partner(), named) {
            (Some(own), Some(named)) if *own != named => Err(Problem::turned_away(
                Code::Forbidden,
                format!("This key is only for the partner {}", own.as_str()),
                TurnedAway::OtherPartner,
            )),
            (Some(own), None) => Ok(Some(own.clone())),
            (_, named) => Ok(named),
        }
    }
}

/// Why a caller was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    NoKey,
    Denied(Denied),
    /// The key's scope does not allow the request.
    Scope,
    /// The key is for another partner.
    OtherPartner,
    TooOften,
}

impl TurnedAway {
    pub const ALL: [Self; 10] = [
        Self::NoKey,
        Self::Denied(Denied::Malformed),
        Self::Denied(Denied::Unknown),
        Self::Denied(Denied::WrongSecret),
        Self::Denied(Denied::Expired),
        Self::Denied(Denied::Revoked),
        Self::Denied(Denied::Unavailable),
        Self::Scope,
        Self::OtherPartner,
        Self::TooOften,
    ];

    /// The value of the label in the metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoKey => "no_key",
            Self::Denied(Denied::Malformed) => "malformed",
            Self::Denied(Denied::Unknown) => "unknown",
            Self::Denied(Denied::WrongSecret) => "wrong_secret",
            Self::Denied(Denied::Expired) => "expired",
            Self::Denied(Denied::Revoked) => "revoked",
            Self::Denied(Denied::Unavailable) => "database_unavailable",
            Self::Scope => "scope",
            Self::OtherPartner => "other_partner",
            Self::TooOften => "rate",
        }
    }
}

/// The key of an answer that is still being sent, such as a stream.
pub struct HeldKey {
    ring: KeyRing,
    id: KeyId,
}

impl HeldKey {
    pub fn is_good(&self) -> bool {
        self.ring.still_takes(&self.id)
    }
}

/// Defines the types of callers by how their keys are recalled, and by the scopes they may have.
macro_rules! callers {
    ($($(#[$attribute:meta])* $name:ident by $recall:ident: $($scope:ident),+;)+) => { $(
        $(#[$attribute])*
        pub struct $name(Identity);

        impl Deref for $name {
            type Target = Identity;

            fn deref(&self) -> &Identity {
                &self.0
            }
        }

        impl FromRequest for $name {
            type Error = Problem;
            type Future = Identified<Self>;

            fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
                identify(request, KeyRing::$recall, |identity| match identity.key().map(|key| &key.scope) {
                    None => Ok(Self(identity)),
                    Some(scope) if [$(Word::$scope),+].contains(&Word::of(scope)) => {
                        Ok(Self(identity))
                    }
                    Some(scope) => Err(forbidden(scope, &[$(Word::$scope.as_str()),+])),
                })
            }
        }
    )+ };
}

callers! {
    /// May see what partners may see.
    Viewer by recall: Partner, Read, Operator;
    /// May book and change reservations.
    Booker by recall: Partner, Operator;
    /// May see what concerns all partners.
    Overseer by recall: Read, Operator;
    /// May see the state of the service, even while the database is unavailable.
    Monitor by recall_last: Read, Operator;
    /// May change what concerns all partners.
    Operator by recall: Operator;
}

/// A scope without its data.
#[derive(PartialEq, Eq)]
enum Word {
    Partner,
    Read,
    Operator,
}

impl Word {
    fn of(scope: &Scope) -> Self {
        match scope {
            Scope::Partner(_) => Self::Partner,
            Scope::Read => Self::Read,
            Scope::Operator => Self::Operator,
        }
    }

    const fn as_str(&self) -> &'static str {
        match self {
            Self::Partner => Scope::WORDS[0],
            Self::Read => Scope::WORDS[1],
            Self::Operator => Scope::WORDS[2],
        }
    }
}

type Identified<T> = Either<Ready<Result<T, Problem>>, LocalBoxFuture<'static, Result<T, Problem>>>;

/// Identifies the caller: nearly always at once, but a key that is new or wrong takes time, and so
/// does a database that is unavailable.
fn identify<T: 'static>(
    request: &HttpRequest,
    recall: fn(&KeyRing, &[u8]) -> Option<Identification>,
    admit: fn(Identity) -> Result<T, Problem>,
) -> Identified<T> {
    let app = request.app_data::<Data<App>>().expect("it is the application's").clone();
    let Access::Keys(guard) = &app.access else {
        return Either::Left(ready(admit(Identity(None))));
    };
    let Some(presented) = bearer(request) else {
        return Either::Left(ready(Err(Problem::unauthenticated(TurnedAway::NoKey))));
    };
    if let Some(found) = recall(&guard.ring, presented) {
        let identified = guard.identified(request, found).and_then(admit);
        return match identified {
            Err(problem) if problem.code == Code::RateLimited => {
                Either::Right(rates::hold_back(problem).boxed_local())
            }
            other => Either::Left(ready(other)),
        };
    }
    let (ring, presented) = (guard.ring.clone(), presented.to_owned());
    let request = request.clone();
    let finding = async move {
        let found = ring.find(&presented).await;
        let Access::Keys(guard) = &app.access else { unreachable!("it has keys") };
        guard.identified(&request, found).and_then(admit)
    };
    Either::Right(finding.boxed_local())
}

impl Guard {
    fn identified(
        &self,
        request: &HttpRequest,
        found: Identification,
    ) -> Result<Identity, Problem> {
        let known = match found {
            Ok(known) => known,
            Err(Denied::Unavailable) => {
                let mut problem = Problem::database_unavailable();
                problem.more.turned_away = Some(TurnedAway::Denied(Denied::Unavailable));
                return Err(problem);
            }
            Err(denied) => return Err(Problem::unauthenticated(TurnedAway::Denied(denied))),
        };
        let allowance = self.rates.count(&known.account.meter)?;
        request.extensions_mut().insert(allowance);
        Ok(Identity(Some(known)))
    }
}

/// The token after `Bearer` (RFC 6750), if the header is given exactly once.
fn bearer(request: &HttpRequest) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let mut given = request.headers().get_all(AUTHORIZATION);
    let (first, None) = (given.next()?.as_bytes(), given.next()) else { return None };
    let (scheme, token) = first.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

fn forbidden(scope: &Scope, allowed: &[&str]) -> Problem {
    let allowed = allowed.join(" or ");
    let detail = format!("This requires a key with the scope {allowed}, not {}", scope.as_str());
    Problem::turned_away(Code::Forbidden, detail, TurnedAway::Scope)
}
