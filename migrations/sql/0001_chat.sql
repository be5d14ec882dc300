-- People, as their tokens name them. The marketplace owns them; this is what the chat shows.
CREATE TABLE users (
    id         text PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 128),
    username   text NOT NULL DEFAULT '',
    user_type  text NOT NULL DEFAULT 'customer' CHECK (user_type IN ('customer', 'vendor')),
    last_seen  timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE conversations (
    id               uuid PRIMARY KEY,
    kind             text NOT NULL CHECK (kind IN ('direct', 'group')),
    title            text,
    -- The two people of a direct conversation, ordered: find-or-create is a unique index, not a race.
    direct_key       text UNIQUE,
    created_by       text NOT NULL REFERENCES users (id),
    created_at       timestamptz NOT NULL DEFAULT now(),
    -- The newest message that Postgres holds; 0 before the first.
    last_message_seq bigint NOT NULL DEFAULT 0,
    -- Newest message, else creation: the order of the list.
    active_at        timestamptz NOT NULL DEFAULT now(),
    CHECK ((kind = 'direct') = (direct_key IS NOT NULL))
);

CREATE TABLE participants (
    conversation_id uuid NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    user_id         text NOT NULL REFERENCES users (id),
    role            text NOT NULL DEFAULT 'member' CHECK (role IN ('owner', 'member')),
    last_read_seq   bigint NOT NULL DEFAULT 0,
    joined_at       timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (conversation_id, user_id)
);
CREATE INDEX participants_by_user ON participants (user_id, conversation_id);

-- Written by the persister alone. No reference to conversations: the gateway has checked, and a
-- foreign key would cost a look-up and a lock for every message.
CREATE TABLE messages (
    conversation_id uuid        NOT NULL,
    seq             bigint      NOT NULL,
    message_id      uuid        NOT NULL,
    client_id       uuid        NOT NULL,
    sender_id       text        NOT NULL CHECK (octet_length(sender_id) BETWEEN 1 AND 128),
    sender_username text        NOT NULL,
    sender_type     text        NOT NULL,
    content         text        NOT NULL CHECK (char_length(content) <= 1000),
    message_type    text        NOT NULL,
    metadata        jsonb       NOT NULL,
    reply_to        bigint,
    created_at      timestamptz NOT NULL,
    -- The last edit and the deletion, with their places in the log: a later one wins, however late
    -- an earlier one is written.
    edited_at       timestamptz,
    edited_seq      bigint,
    deleted_at      timestamptz,
    deleted_seq     bigint,
    PRIMARY KEY (conversation_id, seq),
    UNIQUE (conversation_id, sender_id, client_id)
) PARTITION BY HASH (conversation_id);

DO $$
BEGIN
    FOR part IN 0..7 LOOP
        EXECUTE format(
            'CREATE TABLE messages_%s PARTITION OF messages FOR VALUES WITH (MODULUS 8, REMAINDER %s)', part, part);
    END LOOP;
END $$;

-- Catch-up past the log's end needs what changed after a seq, also in older messages.
CREATE INDEX messages_edited ON messages (conversation_id, edited_seq) WHERE edited_seq IS NOT NULL;
CREATE INDEX messages_deleted ON messages (conversation_id, deleted_seq) WHERE deleted_seq IS NOT NULL;
