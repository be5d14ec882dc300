-- Partyline's roles. Run by a superuser in Partyline's database, before the first migration or later; again at any time. What
-- the gateway and the persister may do with each table is granted by `persister migrate` (migrations/grants.sql), which
-- partyline_owner runs. They can't log in by password until they have one (passwords.sql).
--
--   partyline_owner      owns the schema; only migrations use it
--   partyline_gateway    users, conversations, participants, the outbox; reads messages
--   partyline_persister  messages, read markers, last-seen times; creates nothing
--   partyline_monitor    what exporters read of the server
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['partyline_owner', 'partyline_gateway', 'partyline_persister', 'partyline_monitor'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION', name);
        END IF;
    END LOOP;
    GRANT pg_monitor TO partyline_monitor;

    EXECUTE format('REVOKE ALL ON DATABASE %I FROM PUBLIC', current_database());
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO partyline_owner, partyline_gateway, partyline_persister, '
                   'partyline_monitor', current_database());
    REVOKE ALL ON SCHEMA public FROM PUBLIC;
    ALTER SCHEMA public OWNER TO partyline_owner;

    -- A database that another role migrated so far.
    FOR name IN SELECT oid::regclass FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO partyline_owner', name);
    END LOOP;
    FOR name IN SELECT oid::regprocedure FROM pg_proc
                 WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'partyline\_%' LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO partyline_owner', name);
    END LOOP;
END $$;
