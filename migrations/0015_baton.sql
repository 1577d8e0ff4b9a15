-- Replicas that sell the same event take turns: whoever has its baton, an advisory lock, reads the
-- event, decides, commits, and passes it on. Without that each of them loses most of its commits to
-- the one that made the last, which knows the event's state already.
--
-- Nothing is guarded by it; that is the version's part. So a replica that does not ask for it, or that
-- keeps it because it was stopped half way, does no harm: the others wait for a short time, and then
-- commit without it.

-- Waits for the baton, and then reads: a statement that waits sees what was there before it did. The
-- event's key for it is the hash of its id.
create function take_baton(event_id text) returns setof events
    language plpgsql
    set lock_timeout = '100ms'
as $$
begin
    perform pg_advisory_lock(hashtextextended(event_id, 0));
    return query select * from events where events.id = event_id;
end $$;
