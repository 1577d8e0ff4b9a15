-- no-transaction
-- The holds of a partner, by the number under which `reservations_by_partner` has them together with
-- all bookings of events that limit them; those are summed up in `usage` now.
--
-- The condition is that of the other index of holds, in words that do not imply it: a plan made while
-- there are no holds would read all entries of that one instead.
create index concurrently holds_by_partner
    on reservations (((hashtext(event_id)::bigint << 32)
                      | (hashtext(partner_id)::bigint & 4294967295)))
    where (status = 'held') is not false;
