-- queue.db, version 1: wake-ups. Hints only; losing one costs two minutes.

CREATE TABLE messages (
    id            INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice: receipts name it
    body          TEXT NOT NULL,
    sent_at       INTEGER NOT NULL,
    visible_at    INTEGER NOT NULL,
    receive_count INTEGER NOT NULL
) STRICT;
CREATE INDEX messages_visible_at ON messages (visible_at);

CREATE TABLE dead (
    id            INTEGER PRIMARY KEY,
    body          TEXT NOT NULL,
    sent_at       INTEGER NOT NULL,
    receive_count INTEGER NOT NULL,
    visible_at    INTEGER NOT NULL,
    deliveries    INTEGER NOT NULL
) STRICT;
