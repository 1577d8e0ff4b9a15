-- no-transaction
-- Replaced by `usage` and `holds_by_partner`. Until a replica of an earlier version is replaced, too, it
-- reads all reservations to learn what a partner has; what it learns is right.
drop index concurrently reservations_by_partner;
