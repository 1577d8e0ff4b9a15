-- The rules of the journal that span its columns move from CHECKs to a trigger, as in migration 13: to
-- read them from the catalogue for each commit cost more than to write the row, while a function is
-- compiled once for each connection. A migration of its own, so that no lock on one table is held
-- while it waits for the other.

alter table journal
    drop constraint journal_changes_complete,
    drop constraint journal_says_what_changed;

create function check_journalled_changes() returns trigger language plpgsql as $$
declare
    broken text := case
        -- A row that was meant to change but did not match its previous version leaves fewer
        -- written rows than announced ones; this makes the whole statement fail, seats and all.
        when new.change_count <> any (array[cardinality(new.kinds),
                                            cardinality(new.reservation_ids),
                                            cardinality(new.partner_ids),
                                            cardinality(new.seats)])
            then 'journal_changes_complete'
        -- A version that changed nothing would be a gap with a number.
        when new.change_count < 1 and new.event_change is null
            then 'journal_says_what_changed'
    end;
begin
    if broken is not null then
        raise check_violation using table = tg_table_name, constraint = broken,
            message = format('a row of %s violates %s', tg_table_name, broken);
    end if;
    return new;
end $$;

create trigger journal_changes before insert or update on journal
    for each row execute function check_journalled_changes();
