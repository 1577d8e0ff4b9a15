-- no-transaction
-- What a partner has that counts against a limit: its holds, and all of its seats where the event
-- limits them. It costs nothing for reservations that count against none.
--
-- Built beside writers, which is why it stands alone, outside of a transaction. If it is cut off in
-- the middle, an index that is not valid stays behind, and the next attempt says that it exists: drop
-- it, and migrate again.
create index concurrently reservations_of_partner
    on reservations (event_id, partner_id)
    where status = 'held' or (limited and status = 'confirmed');
