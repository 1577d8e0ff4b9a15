-- no-transaction
-- What `reservations_of_partner` is for, by one number instead of two texts: comparing those was nearly
-- half of what an entry cost, and an entry was a third of what a row of such an event cost. Partners
-- with the same number are told apart by what is read. Its upper half is the event's, so that a sale
-- writes to pages of its own, and not all over the index.
--
-- Built beside writers, which is why it stands alone, outside of a transaction. If it is cut off in
-- the middle, an index that is not valid stays behind, and the next attempt says that it exists: drop
-- it, and migrate again.
create index concurrently reservations_by_partner
    on reservations (((hashtext(event_id)::bigint << 32)
                      | (hashtext(partner_id)::bigint & 4294967295)))
    where status = 'held' or (limited and status = 'confirmed');
