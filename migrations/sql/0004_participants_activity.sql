-- no-transaction
-- When a conversation was last active, beside each participant: a page of a person's list is read from one index (which
-- is made afterwards, without a lock: ../src/lib.rs). Triggers keep it, so that programs of the version before this one keep it, too. In batches, each in a
-- transaction of its own; broken off, it can be run again.
DO $$
DECLARE
    last  uuid := '00000000-0000-0000-0000-000000000000';
    batch uuid[];
BEGIN
    ALTER TABLE participants ADD COLUMN IF NOT EXISTS active_at timestamptz NOT NULL DEFAULT '-infinity';

    CREATE OR REPLACE FUNCTION partyline_new_participant() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        NEW.active_at := COALESCE((SELECT active_at FROM conversations WHERE id = NEW.conversation_id), now());
        RETURN NEW;
    END $body$;
    CREATE OR REPLACE TRIGGER new_participant BEFORE INSERT ON participants
        FOR EACH ROW EXECUTE FUNCTION partyline_new_participant();

    CREATE OR REPLACE FUNCTION partyline_conversation_active() RETURNS trigger LANGUAGE plpgsql AS $body$
    BEGIN
        UPDATE participants SET active_at = NEW.active_at
         WHERE conversation_id = NEW.id AND active_at < NEW.active_at;
        RETURN NULL;
    END $body$;
    CREATE OR REPLACE TRIGGER conversation_active AFTER UPDATE OF active_at ON conversations
        FOR EACH ROW WHEN (NEW.active_at > OLD.active_at) EXECUTE FUNCTION partyline_conversation_active();
    COMMIT;

    LOOP
        SELECT array_agg(id ORDER BY id) INTO batch
          FROM (SELECT id FROM conversations WHERE id > last ORDER BY id LIMIT 500) AS part;
        EXIT WHEN batch IS NULL;
        UPDATE participants p SET active_at = c.active_at
          FROM conversations c
         WHERE c.id = ANY(batch) AND p.conversation_id = c.id AND p.active_at < c.active_at;
        COMMIT;
        last := batch[array_upper(batch, 1)];
    END LOOP;
END $$;
