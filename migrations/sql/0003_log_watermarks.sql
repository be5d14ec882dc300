-- How far each partition of the log has come into Postgres: written in the transaction of each batch, never moved back. A
-- log that ends below it was restored from an older copy.
CREATE TABLE log_watermarks (
    partition integer PRIMARY KEY,
    -- The highest place of which something has been written.
    seq       bigint NOT NULL
);
