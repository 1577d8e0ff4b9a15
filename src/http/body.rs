//! From bytes to values that carry their proof: reading a body, and its fields.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{BytesMut, Payload};
use actix_web::{HttpMessage as _, HttpRequest};
use futures_util::StreamExt as _;
use garde::{Report, Validate};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::problem::{Code, FieldError, Problem};
use crate::domain::{PartnerId, SeatCount};

/// The largest legal request is well below 2 KB.
const BODY_BYTES_MAX: usize = 8 * 1024;
/// A body of that size needs no longer on any network.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reads a body of JSON.
pub async fn read(request: &HttpRequest, mut payload: Payload) -> Result<BytesMut, Problem> {
    let body = match timeout(BODY_TIMEOUT, collect(&mut payload)).await {
        Ok(Ok(body)) => body,
        Ok(Err(problem)) => return Err(problem),
        Err(_elapsed) => {
            let detail = format!("The body did not arrive in {} s", BODY_TIMEOUT.as_secs());
            return Err(Problem::new(Code::RequestTimeout, detail));
        }
    };
    if body.is_empty() {
        return Err(Problem::new(Code::MalformedJson, "The body is empty; a JSON object belongs"));
    }
    if !is_json(request) {
        let detail = "The content type must be application/json";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    if request.headers().contains_key(header::CONTENT_ENCODING) {
        let detail = "The body must not be compressed: send no Content-Encoding";
        return Err(Problem::new(Code::UnsupportedMediaType, detail));
    }
    Ok(body)
}

async fn collect(payload: &mut Payload) -> Result<BytesMut, Problem> {
    let mut body = BytesMut::new();
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_cut_off| {
            Problem::new(Code::MalformedJson, "The body ended before it was complete")
        })?;
        if body.len() + chunk.len() > BODY_BYTES_MAX {
            let detail = format!("The body is larger than {BODY_BYTES_MAX} bytes");
            return Err(Problem::new(Code::BodyTooLarge, detail));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

fn is_json(request: &HttpRequest) -> bool {
    request.content_type().eq_ignore_ascii_case("application/json")
}

/// Parses a body of the form `T` and checks every field.
pub fn parse<'a, T>(body: &'a [u8]) -> Result<T, Problem>
where
    T: Deserialize<'a> + Validate<Context = ()>,
{
    // serde would take an array for the fields in their order, too.
    let is_object = body.trim_ascii_start().starts_with(b"{");
    let parsed = if is_object {
        serde_json::from_slice::<T>(body)
    } else {
        let no_object = |_: &RawValue| serde::de::Error::custom("no object");
        Err(serde_json::from_slice(body).map_or_else(|failure| failure, no_object))
    };
    let parsed = parsed.map_err(|failure| {
        if failure.is_data() {
            let detail = "must be a JSON object, each of its fields given once".into();
            Problem::validation(vec![FieldError { field: "body".into(), detail }])
        } else {
            Problem::new(Code::MalformedJson, format!("The body is not JSON: {failure}"))
        }
    })?;
    parsed.validate().map_err(|report| Problem::validation(field_errors(&report)))?;
    Ok(parsed)
}

fn field_errors(report: &Report) -> Vec<FieldError> {
    let each = report.iter();
    each.map(|(path, error)| FieldError {
        field: camel_case(&path.to_string()),
        detail: error.to_string(),
    })
    .collect()
}

/// garde knows a field by its name in Rust, the caller by its name in JSON.
fn camel_case(snake_case: &str) -> String {
    let mut words = snake_case.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let capital = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &capital.into_iter().chain(letters).collect::<String>()
    })
}

/// A value that a field of a body may have.
pub trait FromJson: Sized {
    /// Ends the sentence that starts with the field's name.
    const MUST_BE: &'static str;

    /// From the JSON text of one value.
    fn from_json(json: &str) -> Option<Self>;
}

impl FromJson for PartnerId {
    const MUST_BE: &'static str =
        "must be a text of 1 to 128 characters, not blank and without control characters";

    fn from_json(json: &str) -> Option<Self> {
        // Fails on lone surrogates, too: they are no characters.
        let text: Cow<'_, str> = serde_json::from_str(json).ok()?;
        Self::parse(&text)
    }
}

impl FromJson for SeatCount {
    const MUST_BE: &'static str = "must be a whole number from 1 to 10";

    fn from_json(json: &str) -> Option<Self> {
        // The digits as they stand: 2.0 and 1e2 are no whole numbers here.
        Self::new(json.parse().ok()?)
    }
}

/// A field of a body: whatever JSON it had, parsing the body goes on, so that all that is wrong
/// can be said at once.
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

/// The rule for a field that must be there.
pub fn required<T: FromJson>(field: &Field<T>, _context: &()) -> garde::Result {
    match field {
        Field::Missing => Err(garde::Error::new("is required")),
        Field::Wrong => Err(garde::Error::new(T::MUST_BE)),
        Field::Is(_) => Ok(()),
    }
}
