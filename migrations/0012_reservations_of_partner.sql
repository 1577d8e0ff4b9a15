-- What a partner has that counts against a limit: its holds, and all of its seats where the event
-- limits them. It costs nothing for reservations that count against none, and there are none of an
-- event with a limit yet.
--
-- Not built concurrently: that waits for every statement that has begun before, and another replica
-- that waits for this migration is one. Writers wait while the table is read once.
create index reservations_of_partner
    on reservations (event_id, partner_id)
    where status = 'held' or (limited and status = 'confirmed');
