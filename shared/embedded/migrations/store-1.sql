-- rdev.db, version 1: the registry, the tasks, the audit log.
--
-- Ids that are ULIDs are blobs of 16 bytes, which sort as the ULIDs do. Times
-- are milliseconds since 1970. A body is the record's JSON; the columns beside
-- it are those that some index or condition needs.

CREATE TABLE projects (
    id         TEXT PRIMARY KEY,
    nonce      BLOB NOT NULL,
    state      TEXT NOT NULL,
    changed_at INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX projects_by_nonce ON projects (nonce);
CREATE INDEX projects_provisioning ON projects (changed_at) WHERE state = 'provisioning';

CREATE TABLE tasks (
    row              INTEGER PRIMARY KEY,
    id               BLOB NOT NULL UNIQUE,
    project          TEXT NOT NULL,
    kind             TEXT NOT NULL,
    agent            TEXT NOT NULL,    -- that a runner must offer; '' for none
    state            TEXT NOT NULL,
    priority         INTEGER NOT NULL, -- 9 - the task's, so that it sorts as the queue does
    available_at     INTEGER NOT NULL,
    expires_at       INTEGER,          -- set when it ends; NULL is never
    events_expire_at INTEGER,          -- never after expires_at; NULL also once they are deleted
    unreadable       TEXT,             -- the body that could not be read, of a task failed as poison
    body             TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_by_kind ON tasks (kind, id);
CREATE INDEX tasks_by_project ON tasks (project, kind, id);
CREATE INDEX tasks_by_state ON tasks (state, kind, id);
CREATE INDEX tasks_by_project_and_state ON tasks (project, state, kind, id);
CREATE INDEX tasks_expiring ON tasks (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX tasks_events_expiring ON tasks (events_expire_at) WHERE events_expire_at IS NOT NULL;

-- Each project's queue has two parts: what may be claimed, in the order of the
-- claims of one kind of runner, and what backs off or is parked, by its time.
CREATE TABLE due (
    project  TEXT NOT NULL,
    agent    TEXT NOT NULL,            -- '' for unowned pushes, which need none
    rank     INTEGER NOT NULL,         -- 0 for unowned pushes, 1 for the rest
    priority INTEGER NOT NULL,
    task     BLOB NOT NULL,
    since    INTEGER NOT NULL,
    PRIMARY KEY (project, agent, rank, priority, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX due_since ON due (project, since);

CREATE TABLE later (
    project  TEXT NOT NULL,
    at       INTEGER NOT NULL,
    task     BLOB NOT NULL,
    agent    TEXT NOT NULL,
    rank     INTEGER NOT NULL,
    priority INTEGER NOT NULL,
    PRIMARY KEY (project, at, task)
) STRICT, WITHOUT ROWID;
CREATE INDEX later_at ON later (at);

-- One row for each task that somebody holds; renewals write nothing else.
CREATE TABLE leases (
    project          TEXT NOT NULL,
    task             BLOB NOT NULL,
    fence            INTEGER NOT NULL,
    owner            TEXT NOT NULL,
    heartbeat        INTEGER NOT NULL,
    until            INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    usage            TEXT,             -- NULL is nothing used
    PRIMARY KEY (project, task)
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (
    send_at INTEGER NOT NULL,
    id      BLOB NOT NULL,
    project TEXT NOT NULL,
    PRIMARY KEY (send_at, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    task BLOB NOT NULL,
    seq  INTEGER NOT NULL,
    at   INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data TEXT NOT NULL,
    PRIMARY KEY (task, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE diffs (
    row  INTEGER PRIMARY KEY,
    task BLOB NOT NULL UNIQUE,
    diff TEXT NOT NULL
) STRICT;

CREATE TABLE audit (
    id         BLOB PRIMARY KEY,
    at         INTEGER NOT NULL,
    actor      TEXT NOT NULL,
    action     TEXT NOT NULL,
    subject    TEXT NOT NULL,
    project    TEXT,
    request_id TEXT,
    expires_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX audit_by_project ON audit (project, id) WHERE project IS NOT NULL;
CREATE INDEX audit_expiring ON audit (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE requests (
    key             TEXT PRIMARY KEY,
    body_sha256     TEXT NOT NULL,
    nonce           BLOB NOT NULL,
    in_flight_until INTEGER NOT NULL,
    answer          TEXT,
    expires_at      INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_expiring ON requests (expires_at);

CREATE TABLE keys (
    id         TEXT PRIMARY KEY,
    created_at INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT;

CREATE TABLE workers (
    id                TEXT PRIMARY KEY,
    status            TEXT NOT NULL,
    drain             INTEGER NOT NULL,
    last_heartbeat_at INTEGER NOT NULL,
    body              TEXT NOT NULL
) STRICT;

CREATE TABLE dead_letters (
    id   BLOB PRIMARY KEY,
    body TEXT NOT NULL
) STRICT;
