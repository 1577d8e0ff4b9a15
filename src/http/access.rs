//! Who may call what. Each handler names in its signature whom it is for, and is not run for
//! anybody else.

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
use crate::access::{Denied, Identification, KeyRing, KnownKey};
use crate::domain::{Caller, Key, KeyId, PartnerId, PartnerLimits, Scope};

/// Whether callers need a key.
pub enum Access {
    /// No, and everybody may do everything.
    Off,
    Keys(Guard),
}

/// Who is let in, and how often.
pub struct Guard {
    pub ring: KeyRing,
    pub rates: Rates,
    pub limits: PartnerLimits,
}

/// Who calls: `None` where nobody is asked.
#[derive(Clone)]
pub struct Identity(Option<Arc<KnownKey>>);

impl Identity {
    fn key(&self) -> Option<&Key> {
        self.0.as_deref().map(|known| &known.key)
    }

    /// As the engine knows it.
    pub fn caller(&self) -> Caller {
        match self.key() {
            None | Some(Key { scope: Scope::Read, .. }) => Caller::Anybody,
            Some(Key { scope: Scope::Partner(partner_id), .. }) => {
                Caller::Partner(partner_id.clone())
            }
            Some(Key { scope: Scope::Operator, id, .. }) => Caller::Operator(id.clone()),
        }
    }

    /// The partner that it acts for, and for no other.
    pub fn partner(&self) -> Option<&PartnerId> {
        match self.key()?.scope {
            Scope::Partner(ref partner_id) => Some(partner_id),
            Scope::Read | Scope::Operator => None,
        }
    }

    pub fn key_id(&self) -> Option<&KeyId> {
        self.key().map(|key| &key.id)
    }

    /// The key, to see whether it is still good later.
    pub fn held(&self, access: &Access) -> Option<HeldKey> {
        match access {
            Access::Off => None,
            Access::Keys(Guard { ring, .. }) => {
                Some(HeldKey { ring: ring.clone(), id: self.key_id()?.clone() })
            }
        }
    }

    /// The partner that a request is about, which a partner's own need not name.
    pub fn about(&self, named: Option<PartnerId>) -> Result<Option<PartnerId>, Problem> {
        match (self.partner(), named) {
            (Some(own), Some(named)) if *own != named => Err(Problem::turned_away(
                Code::Forbidden,
                format!("This key is for the partner {} alone", own.as_str()),
                TurnedAway::OtherPartner,
            )),
            (Some(own), None) => Ok(Some(own.clone())),
            (_, named) => Ok(named),
        }
    }
}

/// Why a caller was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnedAway {
    NoKey,
    Denied(Denied),
    /// The key is not for this.
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

    /// The word in the numbers.
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

/// A key that something goes on with.
pub struct HeldKey {
    ring: KeyRing,
    id: KeyId,
}

impl HeldKey {
    pub fn is_good(&self) -> bool {
        self.ring.still_takes(&self.id)
    }
}

/// Names those whom handlers are for, by how their keys are recalled, and by their scopes.
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
    /// Sees what partners may see.
    Viewer by recall: Partner, Read, Operator;
    /// Books and changes reservations.
    Booker by recall: Partner, Operator;
    /// Sees what belongs to all.
    Overseer by recall: Read, Operator;
    /// Sees how the service is, when its database is away, too.
    Monitor by recall_last: Read, Operator;
    /// Changes what belongs to all.
    Operator by recall: Operator;
}

/// A scope without what belongs to it.
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

/// Nearly always at once; only a key that is new or wrong, or a database that is away, takes time.
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
        let allowance = self.rates.count(&known.meter)?;
        request.extensions_mut().insert(allowance);
        Ok(Identity(Some(known)))
    }
}

/// What follows `Bearer` (RFC 6750), if it stands there once.
fn bearer(request: &HttpRequest) -> Option<&[u8]> {
    const SCHEME: &[u8] = b"Bearer ";
    let mut given = request.headers().get_all(AUTHORIZATION);
    let (first, None) = (given.next()?.as_bytes(), given.next()) else { return None };
    let (scheme, token) = first.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| token.trim_ascii())
}

fn forbidden(scope: &Scope, allowed: &[&str]) -> Problem {
    let allowed = allowed.join(" or ");
    let detail = format!("This takes a key with the scope {allowed}, and not {}", scope.as_str());
    Problem::turned_away(Code::Forbidden, detail, TurnedAway::Scope)
}
