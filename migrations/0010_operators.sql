-- Who changed what, where an operator did: the ids of the keys.

alter table journal
    -- As `kinds`, and one more at the end for the change of the event where there is one; null where
    -- no operator's key was used. Empty, which is nearly always, it takes no room.
    add column key_ids text[];

alter table events
    -- The making of an event is before its first version, and so is not in the journal.
    add column made_by_key text;
