//! Query parameters: each must be known, given only once, and valid.

use std::future::{Ready, ready};

use actix_web::dev::Payload;
use actix_web::{FromRequest, HttpRequest};
use percent_encoding::percent_decode_str;

use super::problem::Problem;

/// The parameters of a request that were not taken yet.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let pairs = request.query_string().split('&').filter(|pair| !pair.is_empty());
        let given = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded(name).ok_or_else(|| Problem::wrong("query", MUST_BE_ENCODED))?;
            let value = decoded(value).ok_or_else(|| Problem::wrong(&name, MUST_BE_ENCODED))?;
            Ok((name, value))
        });
        given.collect::<Result<_, Problem>>().map(Self)
    }

    /// Takes a parameter; `None` if it was not given.
    pub fn take<T>(
        &mut self,
        name: &str,
        must_be: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, Problem> {
        let Some(place) = self.0.iter().position(|(given, _)| given == name) else {
            return Ok(None);
        };
        let (_, value) = self.0.swap_remove(place);
        if self.0.iter().any(|(given, _)| given == name) {
            return Err(Problem::wrong(name, "must be given only once"));
        }
        parse(&value).map(Some).ok_or_else(|| Problem::wrong(name, must_be))
    }

    /// Takes `limit`: the maximum number of items on a page.
    pub fn limit(&mut self, default: i64, max: i64) -> Result<i64, Problem> {
        let must_be = format!("must be a whole number from 1 to {max}");
        let in_range = |limit: &i64| (1..=max).contains(limit);
        let parse = |digits: &str| digits.parse().ok().filter(in_range);
        Ok(self.take("limit", &must_be, parse)?.unwrap_or(default))
    }

    /// Refuses parameters that were not taken: a misspelt one must not be ignored.
    pub fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::wrong(name, "is not a known parameter")),
        }
    }
}

/// A call without query parameters. Any that are given are refused, since they were meant to have
/// an effect: otherwise, seats that were meant to be held would be sold.
pub struct NoQuery;

impl FromRequest for NoQuery {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Query::of(request).and_then(Query::end).map(|()| Self))
    }
}

const MUST_BE_ENCODED: &str = "must be percent-encoded UTF-8, such as caf%C3%A9";

/// Fails where browsers would insert a replacement character, since nothing could be found by such
/// a text.
fn decoded(text: &str) -> Option<String> {
    let text = text.replace('+', " ");
    let mut escapes = text.split('%').skip(1);
    let is_hexadecimal = |digits: &[u8]| digits.iter().all(u8::is_ascii_hexdigit);
    let encoded = escapes.all(|escape| escape.as_bytes().get(..2).is_some_and(is_hexadecimal));
    encoded.then(|| percent_decode_str(&text).decode_utf8().ok().map(Into::into))?
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn what_is_not_encoded_as_it_must_be_is_not_guessed() {
        for (text, is) in [
            ("caf%C3%A9", Some("café")),
            ("caf%c3%a9+no.+1", Some("café no. 1")),
            ("100%25", Some("100%")),
            ("", Some("")),
            ("caf%E9", None),
            ("%C3", None),
            ("100%", None),
            ("%ZZ", None),
            ("%é1", None),
        ] {
            assert_eq!(decoded(text).as_deref(), is, "{text}");
        }
    }
}
