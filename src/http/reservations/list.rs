//! The reservations of an event, page by page or all of them as CSV.

use std::borrow::Cow;
use std::sync::Arc;

use actix_web::http::header::{self, Accept, Header as _};
use actix_web::web::{Bytes, Data, Path};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, get, rt};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::{ReservationBody, ReservationStatus};
use crate::domain::{EventId, PartnerId, Reference, Reservation, Status};
use crate::http::access::{Identity, Viewer};
use crate::http::body::FromJson as _;
use crate::http::openapi::problems;
use crate::http::problem::Problem;
use crate::http::query::Query;
use crate::http::{App, WasHead, event_id, rfc3339};
use crate::store::{Filter, Page, Position};

const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;
/// Changes in the journal that one statement reads.
const CHANGES_PER_STATEMENT: i64 = 2_000;
/// The maximum number of statements for one page. If few entries match the filter, a page ends
/// early.
const STATEMENTS_MAX: usize = 25;
/// Rows of CSV that are in memory at once.
const CSV_ROWS: i64 = 1_000;
const HEAD: &str =
    "reservationId,eventId,partnerId,seats,status,holdExpiresAt,reference,version,createdAt\r\n";

/// Reservations of an event, newest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReservationPage)]
pub struct PageBody<'a> {
    items: Vec<ReservationBody<'a>>,
    /// The cursor for the next page; `null` at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// List the reservations of an event
///
/// Newest first. A page may have fewer than `limit` reservations, even none: as long as there is a
/// `nextCursor`, there may be more. Nothing is skipped and nothing is repeated while new ones are
/// being created. With `Accept: text/csv`, the answer is all of them at once, as CSV; texts that a
/// spreadsheet would take for a formula are prefixed with `'`.
#[utoipa::path(
    tag = "reservations",
    params(("eventId" = String, Path, example = "node-meetup-2025"), ListQuery),
    security(("key" = ["partner", "read", "operator"])),
    responses(
        (status = 200, description = "A page of reservations, or all of them as CSV", content(
            (PageBody = "application/json"),
            (String = "text/csv"),
        )),
        ListProblems,
    ),
)]
#[get("/events/{eventId}/reservations")]
pub async fn list_reservations(
    viewer: Viewer,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let mut query = Query::of(&request)?;
    let partner_id = query.take("partnerId", PartnerId::MUST_BE, PartnerId::parse)?;
    let filter = Filter {
        partner_id: viewer.about(partner_id)?,
        status: query.take("status", STATUS_MUST_BE, Status::parse)?,
        reference: query.take("reference", Reference::MUST_BE, Reference::parse)?,
    };
    if wants_csv(&request) {
        // All reservations at once: without pages, `limit` and `cursor` are unknown parameters.
        query.end()?;
        app.find_event(&event_id).await?;
        let is_head = request.extensions().contains::<WasHead>();
        return Ok(csv(app, viewer.clone(), event_id, filter, is_head));
    }
    let limit = query.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
    let from = query.take("cursor", CURSOR_MUST_BE, position)?.unwrap_or(Position::NEWEST);
    query.end()?;
    let page = fill(&app, &viewer, &event_id, &filter, from, limit).await?;
    if page.reservations.is_empty() && page.next.is_none() {
        app.find_event(&event_id).await?;
    }
    let items = page.reservations.iter().map(ReservationBody::from).collect();
    let next_cursor = page.next.map(cursor);
    let mut response = HttpResponse::Ok();
    response.insert_header((header::VARY, "Accept"));
    Ok(response.json(PageBody { items, next_cursor }))
}

const STATUS_MUST_BE: &str = "must be held, confirmed, cancelled or expired";
const CURSOR_MUST_BE: &str = "must be a nextCursor of this list";

/// A position in the journal: the version, and the place within it unless all of that version is
/// still to come.
fn cursor(next: Position) -> String {
    let Position { version, place } = next;
    if place == i64::MAX { version.to_string() } else { format!("{version}.{place}") }
}

fn position(cursor: &str) -> Option<Position> {
    let number = |digits: &str| {
        let digits = (digits.len() <= CURSOR_DIGITS_MAX).then_some(digits)?;
        digits.parse().ok().filter(|number: &i64| *number >= 0)
    };
    Some(match cursor.split_once('.') {
        Some((version, place)) => Position { version: number(version)?, place: number(place)? },
        None => Position { version: number(cursor)?, place: i64::MAX },
    })
}

const CURSOR_DIGITS_MAX: usize = 18;

/// Whether the caller prefers CSV.
fn wants_csv(request: &HttpRequest) -> bool {
    let Ok(accept) = Accept::parse(request) else { return false };
    let known = ["text/csv", "application/json", "application/*", "*/*"];
    let ranked = accept.ranked();
    let mut ranked = ranked.iter().map(|mime| mime.essence_str());
    ranked.find(|mime| known.contains(mime)) == Some("text/csv")
}

/// Reads on until the page is full, or the maximum number of statements was sent.
async fn fill(
    app: &App,
    caller: &Identity,
    event_id: &EventId,
    filter: &Filter,
    from: Position,
    limit: i64,
) -> Result<Page, Problem> {
    let until = app.answer_by();
    let mut filled = Page { reservations: Vec::new(), next: Some(from) };
    for looked in 0..STATEMENTS_MAX {
        let found = filled.reservations.len() as i64;
        let Some(from) = filled.next.filter(|_| found < limit) else { break };
        match list(app, caller, event_id, filter, from, limit - found, until).await {
            Ok(more) => {
                filled.reservations.extend(more.reservations);
                filled.next = more.next;
            }
            // A page may end early; the next one continues from there.
            Err(_) if looked > 0 => break,
            Err(problem) => return Err(problem),
        }
    }
    Ok(filled)
}

async fn list(
    app: &App,
    caller: &Identity,
    event_id: &EventId,
    filter: &Filter,
    from: Position,
    count: i64,
    until: Instant,
) -> Result<Page, Problem> {
    // Held for one statement only: a client may be slow, and a page may need many statements.
    let turn = app.large_reads.turn(caller.account(), until).await?;
    // In a task of its own, for the same reason as the read of one reservation.
    let store = Arc::clone(&app.store);
    let (event_id, filter) = (event_id.clone(), filter.clone());
    let read = async move {
        let _turn = turn;
        store.list(&event_id, &filter, from, count, CHANGES_PER_STATEMENT, until).await
    };
    Ok(rt::spawn(read).await.map_err(|_panic| Problem::internal())??)
}

/// All reservations that match the filter, in one answer that is sent as they are read. A failure
/// in the middle closes the connection, so that the client sees that the answer is not complete.
fn csv(
    app: Data<App>,
    caller: Identity,
    event_id: EventId,
    filter: Filter,
    is_head: bool,
) -> HttpResponse {
    let held = Arc::new(caller.held(&app.access));
    let file = format!("attachment; filename=\"{event_id}-reservations.csv\"");
    let head = stream::iter([Ok(Bytes::from_static(HEAD.as_bytes()))]);
    let rows = stream::try_unfold(Some(Position::NEWEST), move |from| {
        let (app, event_id, filter) = (app.clone(), event_id.clone(), filter.clone());
        let (caller, held) = (caller.clone(), Arc::clone(&held));
        async move {
            let Some(from) = from else { return Ok(None) };
            // The export ends when the key that requested it is no longer valid.
            if (*held).as_ref().is_some_and(|key| !key.is_good()) {
                return Err(Problem::internal());
            }
            let page =
                list(&app, &caller, &event_id, &filter, from, CSV_ROWS, app.answer_by()).await?;
            let text = lines(&page.reservations).map_err(|failure| {
                log::error!("an export failed: {failure}");
                Problem::internal()
            })?;
            Ok::<_, Problem>(Some((Bytes::from(text), page.next)))
        }
    });
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/csv; charset=utf-8")
        .insert_header((header::VARY, "Accept"))
        .insert_header((header::CONTENT_DISPOSITION, file));
    // For a HEAD, the server would read all of it, and send nothing.
    if is_head { response.finish() } else { response.streaming(head.chain(rows)) }
}

fn lines(reservations: &[Reservation]) -> Result<Vec<u8>, csv::Error> {
    let mut lines =
        csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
    for made in reservations {
        lines.write_record([
            made.id.0.to_string().as_str(),
            made.event_id.as_str(),
            &neutral(made.partner_id.as_str()),
            &made.seats.to_string(),
            made.status.as_str(),
            &made.ends_at().map(rfc3339).unwrap_or_default(),
            &neutral(made.reference.as_ref().map_or("", Reference::as_str)),
            &made.version.to_string(),
            &rfc3339(made.created_at),
        ])?;
    }
    lines.into_inner().map_err(|failure| failure.into_error().into())
}

/// A partner's text, made safe from being taken for a formula by a spreadsheet. Where the list
/// separator is a semicolon, a cell may begin after each semicolon; blanks before a formula are
/// skipped.
fn neutral(text: &str) -> Cow<'_, str> {
    const FORMULA: [char; 8] = ['=', '+', '-', '@', '＝', '＋', '－', '＠'];
    let begins = |cell: &str| cell.trim_start().starts_with(FORMULA);
    if !text.split(';').any(begins) {
        return text.into();
    }
    let cells = text.split(';');
    let cells = cells.map(|cell| if begins(cell) { format!("'{cell}") } else { cell.to_owned() });
    cells.collect::<Vec<_>>().join(";").into()
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes parameters")]
struct ListQuery {
    /// Only reservations of this partner. With a partner's key, there are no others.
    #[param(rename = "partnerId", value_type = String, required = false, min_length = 1,
        max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$")]
    partner_id: Option<String>,
    /// Only reservations with this status.
    #[param(value_type = ReservationStatus, required = false)]
    status: Option<String>,
    /// Only reservations with this reference.
    #[param(value_type = String, required = false, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    reference: Option<String>,
    /// The maximum number of reservations on the page.
    #[param(value_type = i32, required = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<i32>,
    /// The `nextCursor` of the previous page.
    #[param(value_type = String, required = false, pattern = r"^[0-9]{1,18}(\.[0-9]{1,18})?$")]
    cursor: Option<String>,
}

problems! {
    ListProblems: ValidationFailed, EventNotFound, Internal, Overloaded, DatabaseUnavailable;
}
