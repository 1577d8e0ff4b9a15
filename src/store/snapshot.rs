//! Everything that a batch is decided on, read in one snapshot.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::events::event_of;
use super::reservations::ReservationRow;
use super::usage::{self, Unsummed, UnsummedVersion};
use super::{Before, EventNow, Snapshot, events};
use crate::domain::{
    Command, DUE_HOLDS_MAX, Event, EventId, Named, PartnerId, Timestamp, Usage, UsageByPartner,
};

/// How often it tries to get all of what partners have, however much others sell meanwhile. If not
/// even this helps, the journal does not end where the event is.
const SUMS_ATTEMPTS_MAX: usize = 5;

/// Reads only the event row if `before` suggests that nothing else matters and the fresh row
/// confirms it. This keeps refusals cheap while a sold-out event is under load.
///
/// Also returns how many rows it had to add to the sums of what partners have.
pub(super) async fn snapshot(
    connection: &mut PgConnection,
    event_id: &EventId,
    commands: &[&Command],
    before: Option<Before<'_>>,
) -> Result<Option<(Snapshot, usize)>, sqlx::Error> {
    let wanted = Wanted::by(commands);
    if let Some(before) = before
        && wanted.nothing_beside(before.event, Some(before.usage))
    {
        let read = events::event_now(connection, event_id).await?;
        let Some(EventNow { event, now }) = read else { return Ok(None) };
        let usage = Some(before.usage).filter(|_| event.version == before.event.version);
        if wanted.nothing_beside(&event, usage) {
            let (named, usage) = (Named::default(), UsageByPartner::default());
            return Ok(Some((Snapshot { event, named, usage, now }, 0)));
        }
    }
    let mut attempts_left = SUMS_ATTEMPTS_MAX;
    loop {
        let read = event_and_named(connection, event_id, &wanted).await?;
        let Some((snapshot, unsummed)) = read else { return Ok(None) };
        // All versions are summed up, or were added.
        if unsummed.version.is_none_or(|last| last == snapshot.event.version) {
            return Ok(Some((snapshot, unsummed.rows)));
        }
        attempts_left -= 1;
        if attempts_left == 0 {
            let what = format!("event {event_id}: its journal cannot be summed up");
            return Err(sqlx::Error::Decode(what.into()));
        }
        while usage::sum_up(connection, event_id).await? {}
    }
}

/// One statement sees one snapshot: seats, statuses and versions that belong together. With two
/// statements, a reservation cancelled in between gave its seats back twice.
///
/// The usage of limited partners comes in separate rows, and only if it matters; so does what the
/// journal has to add to it: see [`usage`]. Holds are found by the number under which their index has
/// event and partner, and those past their time are subtracted.
///
/// Holds past their time are read only if the available seats may not suffice, and no more than
/// [`DUE_HOLDS_MAX`] of them.
///
/// `offset 0` keeps the planner from reversing the join by key, and from finding a partner's rows
/// in any other way: a plan made while the table was empty would read all of it for each batch once
/// it has grown.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
async fn event_and_named(
    connection: &mut PgConnection,
    event_id: &EventId,
    wanted: &Wanted<'_>,
) -> Result<Option<(Snapshot, Unsummed)>, sqlx::Error> {
    let limited_partner_ids: Vec<_> =
        wanted.limited_partner_ids.iter().map(|partner_id| partner_id.as_str()).collect();
    let rows = sqlx::query_as!(
        SnapshotRow,
        r#"-- snapshot
        select event.name, event.total_seats, event.available_seats, event.held_seats,
               event.reservation_count, event.seats_per_reservation_max,
               event.seats_per_partner_max, event.status, event.sales_open_at, event.sales_close_at, event.version, event.created_at,
               clock_timestamp() as "now!",
               case when event.available_seats < $5::bigint then (
                    select hold_expires_at
                      from reservations
                     where event_id = $1 and status = 'held'
                       and hold_expires_at > statement_timestamp()
                     order by hold_expires_at
                     limit 1
               ) end as next_hold_expires_at,
               named.id as "id?", named.partner_id as "partner_id?", named.seats as "seats?",
               named.status as "reservation_status?",
               named.hold_expires_at as "hold_expires_at?", named.reference as "reference?",
               named.version as "reservation_version?", named.created_at as "reserved_at?",
               named.idempotency_key as "idempotency_key?",
               named.request_fingerprint as "request_fingerprint?", named.item as "item?",
               named.used_seats as "used_seats?", named.used_holds as "used_holds?",
               named.kinds as "kinds?", named.partner_ids as "partner_ids?",
               named.change_seats as "change_seats?"
          from events as event
          left join lateral (
                select by_id.id, by_id.partner_id, by_id.seats, by_id.status,
                       by_id.hold_expires_at, by_id.reference, by_id.version, by_id.created_at,
                       by_id.idempotency_key, by_id.request_fingerprint, by_id.item,
                       null::bigint as used_seats, null::bigint as used_holds,
                       null::smallint[] as kinds, null::text[] as partner_ids,
                       null::integer[] as change_seats
                  from reservations as by_id
                 where by_id.event_id = $1 and by_id.id = any ($2)
                 union all
                select by_key.*, null, null, null, null, null
                  from unnest($3::text[], $4::text[]) as wanted (partner_id, key),
                       lateral (
                        select id, partner_id, seats, status, hold_expires_at, reference, version,
                               created_at, idempotency_key, request_fingerprint, item
                          from reservations
                         where event_id = $1
                           and partner_id = wanted.partner_id
                           and idempotency_key = wanted.key
                        offset 0
                       ) as by_key
                 union all
                select due.*, null, null, null, null, null
                  from (
                        select id, partner_id, seats, status, hold_expires_at, reference, version,
                               created_at, idempotency_key, request_fingerprint, item
                          from reservations
                         where event_id = $1 and status = 'held'
                           and hold_expires_at <= statement_timestamp()
                           and event.available_seats < $5::bigint
                         order by hold_expires_at
                         limit $6
                       ) as due
                 union all
                select null, wanted.partner_id, null, null, null, null, null, null, null, null, null,
                       case when event.seats_per_partner_max is null then 0
                            else coalesce(summed.seats, 0) - held.due_seats end,
                       held.holds, null, null, null
                  from unnest($7::text[], $8::boolean[]) as wanted (partner_id, has_holds)
                  left join lateral (
                        select seats
                          from usage
                         where event_id = $1 and partner_id = wanted.partner_id
                        offset 0
                       ) as summed on true,
                       lateral (
                        select count(*) filter (where hold_expires_at > statement_timestamp())
                                   as holds,
                               coalesce(sum(seats) filter (
                                   where hold_expires_at <= statement_timestamp()), 0)::bigint
                                   as due_seats
                          from (
                                select event_id, partner_id, seats, hold_expires_at
                                  from reservations
                                 where ((hashtext(event_id)::bigint << 32)
                                        | (hashtext(partner_id)::bigint & 4294967295))
                                     = ((hashtext($1)::bigint << 32)
                                        | (hashtext(wanted.partner_id)::bigint & 4294967295))
                                   and (status = 'held') is not false
                                offset 0
                               ) as same_number
                         where event_id = $1 and partner_id = wanted.partner_id
                       ) as held
                 where wanted.has_holds or event.seats_per_partner_max is not null
                 union all
                select null, null, null, null, null, null, unsummed.version, null, null, null, null,
                       null, null, unsummed.kinds, unsummed.partner_ids, unsummed.seats
                  from (
                        select version::bigint as version, kinds::smallint[] as kinds, partner_ids,
                               seats, greatest(change_count, 1) as rows,
                               sum(greatest(change_count, 1)) over (order by version) as so_far
                          from journal
                         where event_id = $1
                           and version > coalesce((select usage_versions.version
                                                     from usage_versions
                                                    where usage_versions.event_id = $1), 0)
                           and event.seats_per_partner_max is not null
                           and cardinality($7::text[]) > 0
                         order by version
                         limit $9
                       ) as unsummed
                 where so_far - rows < $9
               ) as named on true
         where event.id = $1"#,
        event_id.as_str(),
        &wanted.ids,
        &wanted.partner_ids as &[&str],
        &wanted.keys as &[&str],
        wanted.seats,
        DUE_HOLDS_MAX as i64,
        &limited_partner_ids as &[&str],
        &wanted.has_holds,
        usage::UNSUMMED_MAX,
    )
    .fetch_all(connection)
    .await?;

    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let (event, now) = (event_of!(event_id, first)?, first.now);
    let (mut named, mut usage) = (Named::default(), UsageByPartner::default());
    named.next_hold_expires_at = first.next_hold_expires_at;
    let (mut summed, mut unsummed) = (Vec::new(), Unsummed::default());
    for mut row in rows {
        if let Some(used) = row.usage()? {
            summed.push(used);
        } else if let Some(version) = row.unsummed() {
            unsummed.add(version);
        } else if let Some(row) = row.reservation(event_id) {
            named.insert(row.try_into()?);
        }
    }
    for (partner_id, Usage { seats, holds }) in summed {
        let seats = seats + unsummed.of(partner_id.as_str());
        usage.insert(partner_id, Usage { seats, holds });
    }
    Ok(Some((Snapshot { event, named, usage, now }, unsummed)))
}

/// The event, joined with one of the named reservations or with none.
struct SnapshotRow {
    name: String,
    total_seats: i32,
    available_seats: i32,
    held_seats: i32,
    reservation_count: i64,
    seats_per_reservation_max: i32,
    seats_per_partner_max: Option<i32>,
    status: String,
    sales_open_at: Option<Timestamp>,
    sales_close_at: Option<Timestamp>,
    version: i64,
    created_at: Timestamp,
    now: Timestamp,
    next_hold_expires_at: Option<Timestamp>,
    id: Option<Uuid>,
    partner_id: Option<String>,
    seats: Option<i32>,
    reservation_status: Option<String>,
    hold_expires_at: Option<Timestamp>,
    reference: Option<String>,
    reservation_version: Option<i64>,
    reserved_at: Option<Timestamp>,
    idempotency_key: Option<String>,
    request_fingerprint: Option<String>,
    item: Option<i16>,
    used_seats: Option<i64>,
    used_holds: Option<i64>,
    /// A version of the journal that the sums of usage do not include; its number is in
    /// `reservation_version`.
    kinds: Option<Vec<i16>>,
    partner_ids: Option<Vec<String>>,
    change_seats: Option<Vec<i32>>,
}

impl SnapshotRow {
    /// The partner's usage, if the row is about that. Partners without a row were not counted.
    fn usage(&self) -> Result<Option<(PartnerId, Usage)>, sqlx::Error> {
        let (Some(seats), Some(holds)) = (self.used_seats, self.used_holds) else {
            return Ok(None);
        };
        let partner_id = self.partner_id.as_deref().and_then(PartnerId::parse);
        let unreadable = || sqlx::Error::Decode("usage of a partner: unreadable partner_id".into());
        Ok(Some((partner_id.ok_or_else(unreadable)?, Usage { seats, holds })))
    }

    /// The version of the journal that the sums do not include, if the row is one.
    fn unsummed(&mut self) -> Option<UnsummedVersion> {
        Some(UnsummedVersion {
            version: self.reservation_version?,
            kinds: self.kinds.take()?,
            partner_ids: self.partner_ids.take()?,
            seats: self.change_seats.take()?,
        })
    }

    /// `None` where no reservation was joined, or the row is about a partner's usage.
    fn reservation(self, event_id: &EventId) -> Option<ReservationRow> {
        Some(ReservationRow {
            id: self.id?,
            event_id: event_id.to_string(),
            partner_id: self.partner_id?,
            seats: self.seats?,
            status: self.reservation_status?,
            hold_expires_at: self.hold_expires_at,
            reference: self.reference,
            version: self.reservation_version?,
            created_at: self.reserved_at?,
            idempotency_key: self.idempotency_key,
            request_fingerprint: self.request_fingerprint,
            item: self.item?,
        })
    }
}

/// What the commands name, as the arrays that are bound to the statement.
#[derive(Default)]
struct Wanted<'a> {
    ids: Vec<Uuid>,
    partner_ids: Vec<&'a str>,
    keys: Vec<&'a str>,
    /// Partners whose usage must be known if the event limits it or they want holds; each once.
    limited_partner_ids: Vec<&'a PartnerId>,
    has_holds: Vec<bool>,
    /// In total. If the available seats do not cover them, holds past their time may have to.
    seats: i64,
}

impl<'a> Wanted<'a> {
    fn by(commands: &[&'a Command]) -> Self {
        let mut wanted = Self::default();
        let mut limited = HashMap::new();
        for command in commands {
            wanted.seats = wanted.seats.saturating_add(command.seats_wanted());
            match command {
                Command::Reserve(reserve) => {
                    if let Some(key) = &reserve.key {
                        wanted.partner_ids.push(reserve.partner_id.as_str());
                        wanted.keys.push(key.as_str());
                    }
                    if reserve.limits.is_some() {
                        *limited.entry(&reserve.partner_id).or_insert(false) |= reserve.has_holds();
                    }
                }
                Command::Alter(alter) => wanted.ids.push(alter.id.0),
                Command::ChangeEvent(_) | Command::Sweep => {}
            }
        }
        for (partner_id, has_holds) in limited {
            wanted.limited_partner_ids.push(partner_id);
            wanted.has_holds.push(has_holds);
        }
        wanted
    }

    /// Whether the commands can be decided on this event and the known usage alone: they name no
    /// reservation and no key, every limited partner's usage is known, and no hold can matter.
    fn nothing_beside(&self, event: &Event, usage: Option<&UsageByPartner>) -> bool {
        let is_known =
            |partner_id: &PartnerId| usage.is_some_and(|usage| usage.of(partner_id).is_some());
        let is_limited = |has_holds: bool| has_holds || event.seats_per_partner_max.is_some();
        let mut limited = self.limited_partner_ids.iter().zip(&self.has_holds);
        self.ids.is_empty()
            && self.keys.is_empty()
            && limited.all(|(partner_id, holds)| !is_limited(*holds) || is_known(partner_id))
            && (event.held_seats == 0 || i64::from(event.available_seats) >= self.seats)
    }
}
