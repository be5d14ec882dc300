-- By these the persister finds out that Postgres lacks what was in it: it was restored from a backup, or a standby that
-- lagged was promoted. It then reads the log again from `settled` on.
ALTER TABLE log_watermarks
    -- Everything up to here was in Postgres, or a dead letter, when the row was written.
    ADD COLUMN IF NOT EXISTS settled bigint NOT NULL DEFAULT 0,
    -- How often the partition has been read again: what a process knew of `settled` before is not true afterwards.
    ADD COLUMN IF NOT EXISTS rewinds bigint NOT NULL DEFAULT 0,
    -- Cluster, database and timeline that the row was written in.
    ADD COLUMN IF NOT EXISTS history text NOT NULL DEFAULT '';
