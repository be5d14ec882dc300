-- What the roles of deploy/postgres/roles.sql need of each table, and no more. Run after migrations; does nothing for roles
-- that there are not.
DO $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('partyline grants'));

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'partyline_gateway') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO partyline_gateway', current_schema());
        GRANT SELECT ON _sqlx_migrations, users, conversations, participants, messages, outbox, log_watermarks
           TO partyline_gateway;
        GRANT INSERT (id, username, user_type), UPDATE (username, user_type) ON users TO partyline_gateway;
        -- UPDATE is for the lock on a conversation's row: the gateway changes nothing in it.
        GRANT INSERT, UPDATE (title) ON conversations TO partyline_gateway;
        GRANT INSERT, DELETE, UPDATE (role) ON participants TO partyline_gateway;
        GRANT INSERT, DELETE, UPDATE (due_at) ON outbox TO partyline_gateway;
    END IF;

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'partyline_persister') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO partyline_persister', current_schema());
        GRANT SELECT ON _sqlx_migrations, users, conversations, participants, messages, log_watermarks
           TO partyline_persister;
        GRANT INSERT (id, last_seen), UPDATE (last_seen) ON users TO partyline_persister;
        GRANT UPDATE (last_message_seq, active_at) ON conversations TO partyline_persister;
        GRANT UPDATE (last_read_seq, active_at) ON participants TO partyline_persister;
        GRANT INSERT, UPDATE ON messages TO partyline_persister;
        GRANT INSERT, UPDATE ON log_watermarks TO partyline_persister;
    END IF;
END $$;
