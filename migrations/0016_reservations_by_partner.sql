-- no-transaction
-- What `reservations_of_partner` is for, by one number instead of two texts: comparing those was most
-- of what a row of an event with a limit cost, and that was a third of what the row cost in all.
-- Partners with the same number are told apart by what is read.
--
-- Built beside writers, which is why it stands alone, outside of a transaction. If it is cut off in
-- the middle, an index that is not valid stays behind, and the next attempt says that it exists: drop
-- it, and migrate again.
create index concurrently reservations_by_partner
    on reservations (hashtextextended(partner_id, hashtextextended(event_id, 0)))
    where status = 'held' or (limited and status = 'confirmed');
