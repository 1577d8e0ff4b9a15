//! The parameters of a query: each known, given once, and as it must be.

use actix_web::HttpRequest;
use actix_web::web;

use super::problem::Problem;

/// What a request gave, and was not taken yet.
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let given = web::Query::<Vec<_>>::from_query(request.query_string());
        let given = given.map_err(|_| Problem::wrong("query", "must be name=value pairs"))?;
        Ok(Self(given.into_inner()))
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
            return Err(Problem::wrong(name, "must be given once"));
        }
        parse(&value).map(Some).ok_or_else(|| Problem::wrong(name, must_be))
    }

    /// How many items a page may have.
    pub fn limit(&mut self, default: i64, max: i64) -> Result<i64, Problem> {
        let must_be = format!("must be a whole number from 1 to {max}");
        let in_range = |limit: &i64| (1..=max).contains(limit);
        let parse = |digits: &str| digits.parse().ok().filter(in_range);
        Ok(self.take("limit", &must_be, parse)?.unwrap_or(default))
    }

    /// Nothing else was given: a name that is misspelt must not be taken for none.
    pub fn end(self) -> Result<(), Problem> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(Problem::wrong(name, "is no parameter of this call")),
        }
    }
}
