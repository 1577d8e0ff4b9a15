-- no-transaction
-- What a partner has that counts against a limit: its holds, and all of its seats where the event
-- limits them. It costs nothing for reservations that count against none. Built beside writers, which
-- is why it stands alone, outside of a transaction.
create index concurrently if not exists reservations_of_partner
    on reservations (event_id, partner_id)
    where status = 'held' or (limited and status = 'confirmed');
