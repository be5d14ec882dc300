-- Changes of participants and new conversations that gateways still have to tell: written in the transaction of the
-- change, deleted once the log has its event and the people concerned have been notified. Nearly always empty.
CREATE TABLE outbox (
    -- Assigned under the conversation's lock: within a conversation this is the order of the commits.
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    conversation_id uuid        NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    -- Names the event in the log, so that it is appended once.
    event_id        uuid        NOT NULL,
    -- The event stands after this place in the log.
    after_seq       bigint      NOT NULL,
    -- The event as the log stores it; null for a new conversation, which has none.
    event           json,
    -- Whom `conversation_updated` goes to.
    users           text[]      NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    -- When any gateway may relay it: until then one gateway has it in hand.
    due_at          timestamptz NOT NULL
);
CREATE INDEX outbox_by_conversation ON outbox (conversation_id, id);
