//! Reads a body, and parses its fields into types that are valid by construction.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{BytesMut, Payload};
use actix_web::{HttpMessage as _, HttpRequest};
use futures_util::StreamExt as _;
use garde::{Report, Validate};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::problem::{Code, FieldError, Problem};

mod values;

pub use values::text;

/// The largest valid request for one reservation or event is well below 2 KB.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// The maximum number of reservations in one request.
pub const ITEMS_MAX: usize = 100;
/// Each item may have a reference, and each character of it may be written as an escape.
const LIST_BYTES_MAX: usize = BODY_BYTES_MAX + ITEMS_MAX * 2 * 1024;
/// Enough for a body of this size on any network. Not shorter: clients that never complete their
/// body reconnect when they are cut off, and reconnecting costs more than waiting.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);
/// The maximum number of errors that are reported for one request: a body may be full of them.
const ERRORS_MAX: usize = 20;
const NO_OBJECT: &str = "must be a JSON object without duplicate fields";

/// Reads a JSON body.
pub async fn read(request: &HttpRequest, payload: Payload) -> Result<BytesMut, Problem> {
    read_at_most(BODY_BYTES_MAX, request, payload).await
}

/// The same, for a list of reservations.
pub async fn read_list(request: &HttpRequest, payload: Payload) -> Result<BytesMut, Problem> {
    read_at_most(LIST_BYTES_MAX, request, payload).await
}

/// Reads the body of a call that takes none. `null` and an empty object are accepted, too; anything
/// else is refused, since it requests something that would not be done, such as cancelling a part
/// of a reservation.
pub async fn read_nothing(mut payload: Payload) -> Result<(), Problem> {
    #[derive(Deserialize, Validate)]
    struct Nothing {}

    impl Fields for Nothing {
        const FIELDS: &'static [&'static str] = &[];
    }

    let body = collect_in_time(&mut payload, BODY_BYTES_MAX).await?;
    match body.trim_ascii() {
        b"" | b"null" => Ok(()),
        _ => parse_known::<Nothing>(&body, &()).map(|Nothing {}| ()),
    }
}

async fn read_at_most(
    bytes_max: usize,
    request: &HttpRequest,
    mut payload: Payload,
) -> Result<BytesMut, Problem> {
    let body = collect_in_time(&mut payload, bytes_max).await?;
    if body.is_empty() {
        let detail = "The body is empty; it must be a JSON object";
        return Err(Problem::new(Code::MalformedJson, detail));
    }
    if !is_json(request) {
        let detail = "The content type must be application/json";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        let detail = "The body must not be compressed: omit Content-Encoding";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    Ok(body)
}

async fn collect_in_time(payload: &mut Payload, bytes_max: usize) -> Result<BytesMut, Problem> {
    timeout(BODY_TIMEOUT, collect(payload, bytes_max)).await.unwrap_or_else(|_elapsed| {
        let detail = format!("The body did not arrive within {} s", BODY_TIMEOUT.as_secs());
        Err(Problem::new(Code::RequestTimeout, detail))
    })
}

async fn collect(payload: &mut Payload, bytes_max: usize) -> Result<BytesMut, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_cut_off| {
            Problem::new(Code::MalformedJson, "The body ended before it was complete")
        })?;
        if body.len() + chunk.len() > bytes_max {
            let detail = format!("The body is larger than {bytes_max} bytes");
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn is_json(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/json")
}

/// Parses a body of the form `T` and checks every field, by rules that may depend on `context`.
pub fn parse<'a, T>(body: &'a [u8], context: &T::Context) -> Result<T, Problem>
where
    T: Deserialize<'a> + Validate,
{
    check(object(body)?, context, Vec::new())
}

/// The fields that a body of this form can have.
pub trait Fields {
    const FIELDS: &'static [&'static str];
}

/// The same, but unknown fields are refused: a misspelt one could turn a hold into a sale.
pub fn parse_known<'a, T>(body: &'a [u8], context: &T::Context) -> Result<T, Problem>
where
    T: Deserialize<'a> + Validate + Fields,
{
    let parsed = object(body)?;
    let unknown = |field| FieldError { field, detail: "is not a known field".into() };
    // Reported first, since a misspelt field is often the reason for a missing one.
    let unknown = unknown_fields::<T>(body).map(unknown).collect();
    check(parsed, context, unknown)
}

fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Problem> {
    // serde would also accept an array of the fields in their order.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let parsed = if is_object {
        serde_json::from_slice::<T>(body)
    } else {
        let no_object = |_: &RawValue| serde::de::Error::custom("no object");
        Err(serde_json::from_slice(body).map_or_else(|failure| failure, no_object))
    };
    parsed.map_err(|failure| {
        if failure.is_data() {
            Problem::wrong("body", NO_OBJECT)
        } else {
            Problem::new(Code::MalformedJson, format!("The body is not valid JSON: {failure}"))
        }
    })
}

/// Validates all fields, and adds what is wrong to `errors`, so that everything is reported at
/// once.
fn check<T: Validate>(
    parsed: T,
    context: &T::Context,
    mut errors: Vec<FieldError>,
) -> Result<T, Problem> {
    if let Err(report) = parsed.validate_with(context) {
        errors.extend(field_errors(&report));
    }
    errors.truncate(ERRORS_MAX);
    if errors.is_empty() { Ok(parsed) } else { Err(Problem::validation(errors)) }
}

/// The names of the unknown fields of an object, sorted; none if it is not an object.
fn unknown_fields<T: Fields>(object: &[u8]) -> impl Iterator<Item = String> {
    /// Enough of a name to recognise it.
    const NAME_LENGTH_MAX: usize = 64;
    let given: BTreeMap<Cow<'_, str>, IgnoredAny> =
        serde_json::from_slice(object).unwrap_or_default();
    let unknown = given.into_keys().filter(|name| !T::FIELDS.contains(&name.as_ref()));
    unknown.map(|name| name.chars().take(NAME_LENGTH_MAX).collect())
}

fn field_errors(report: &Report) -> Vec<FieldError> {
    let each = report.iter();
    each.map(|(path, error)| FieldError {
        field: camel_case(&path.to_string()),
        detail: error.to_string(),
    })
    .collect()
}

/// garde knows a field by its name in Rust, callers by its name in JSON.
fn camel_case(snake_case: &str) -> String {
    let mut words = snake_case.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let capital = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + capital.into_iter().chain(letters).collect::<String>().as_str()
    })
}

/// A type that a field of a body can have.
pub trait FromJson: Sized {
    /// Completes the sentence that begins with the field's name.
    const MUST_BE: &'static str;

    /// Parses the JSON text of one value.
    fn from_json(json: &str) -> Option<Self>;
}

/// A field of a body. A wrong value does not stop the parsing, so that all errors can be reported
/// at once.
#[derive(Debug, Default)]
pub enum Field<T> {
    #[default]
    Missing,
    Wrong,
    Is(T),
}

impl<'de, T: FromJson> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?;
        Ok(T::from_json(json.get()).map_or(Self::Wrong, Self::Is))
    }
}

/// The rule for a required field.
pub fn required<T: FromJson, C>(field: &Field<T>, _context: &C) -> garde::Result {
    match field {
        Field::Missing => Err(garde::Error::new("is required")),
        Field::Wrong => Err(garde::Error::new(T::MUST_BE)),
        Field::Is(_) => Ok(()),
    }
}

/// The rule for an optional field.
pub fn optional<T: FromJson, C>(field: &Field<T>, _context: &C) -> garde::Result {
    match field {
        Field::Wrong => Err(garde::Error::new(T::MUST_BE)),
        Field::Missing | Field::Is(_) => Ok(()),
    }
}

impl<T> Field<T> {
    pub const fn is_given(&self) -> bool {
        matches!(self, Self::Is(_))
    }

    /// What was given. Parsing has already refused anything wrong.
    pub fn given(self) -> Option<T> {
        match self {
            Self::Missing | Self::Wrong => None,
            Self::Is(value) => Some(value),
        }
    }

    /// The same, for a required field.
    pub fn must(self) -> T {
        self.given().expect("parsing refuses a body without a required field")
    }
}

/// A list of objects, each with its own fields. As with a field, a wrong value does not stop the
/// parsing.
#[derive(Debug, Default)]
pub enum List<T> {
    #[default]
    Missing,
    Wrong,
    Are(Vec<Item<T>>),
}

#[derive(Debug)]
pub enum Item<T> {
    /// An object, and the name of its first unknown field, if it has any.
    Object(T, Option<String>),
    NoObject,
}

impl<'de, T: Deserialize<'de> + Fields> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(deserializer)?;
        let list = serde_json::from_str::<Vec<&RawValue>>(json.get());
        let list = list.ok().filter(|list| (1..=ITEMS_MAX).contains(&list.len()));
        let item = |json: &'de RawValue| match object(json.get().as_bytes()) {
            Ok(fields) => Item::Object(fields, unknown_fields::<T>(json.get().as_bytes()).next()),
            Err(_) => Item::NoObject,
        };
        Ok(list.map_or(Self::Wrong, |list| Self::Are(list.into_iter().map(item).collect())))
    }
}

impl<T: Validate> Validate for List<T> {
    type Context = T::Context;

    fn validate_into(
        &self,
        context: &T::Context,
        parent: &mut dyn FnMut() -> garde::Path,
        report: &mut Report,
    ) {
        match self {
            Self::Missing => report.append(parent(), garde::Error::new("is required")),
            Self::Wrong => {
                let must_be = format!("must be a list of 1 to {ITEMS_MAX} objects");
                report.append(parent(), garde::Error::new(must_be));
            }
            Self::Are(items) => {
                for (number, item) in items.iter().enumerate() {
                    item.validate_into(context, &mut || parent().join(number), report);
                }
            }
        }
    }
}

impl<T: Validate> Validate for Item<T> {
    type Context = T::Context;

    fn validate_into(
        &self,
        context: &T::Context,
        parent: &mut dyn FnMut() -> garde::Path,
        report: &mut Report,
    ) {
        let Self::Object(fields, unknown) = self else {
            return report.append(parent(), garde::Error::new(NO_OBJECT));
        };
        if let Some(name) = unknown {
            let detail = format!("has an unknown field: {name}");
            report.append(parent(), garde::Error::new(detail));
        }
        fields.validate_into(context, parent, report);
    }
}

impl<T> List<T> {
    /// What was given. Parsing has already refused anything wrong.
    pub fn must(self) -> impl Iterator<Item = T> {
        let Self::Are(items) = self else {
            unreachable!("parsing refuses a body without its list")
        };
        items.into_iter().map(|item| match item {
            Item::Object(fields, _unknown) => fields,
            Item::NoObject => unreachable!("parsing refuses what is no object"),
        })
    }
}
