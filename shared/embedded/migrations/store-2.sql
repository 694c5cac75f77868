-- rdev.db, version 2: webhooks and their deliveries, domains, pipelines.

-- As the task's body says, so that the end of one that cannot be read is told of too.
ALTER TABLE tasks ADD COLUMN notify INTEGER NOT NULL DEFAULT 0;

-- A webhook's URL stands in its project; its secret is nowhere else than here.
CREATE TABLE webhooks (
    project TEXT PRIMARY KEY,
    secret  TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE domains (
    fqdn    TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    id      BLOB NOT NULL,
    body    TEXT NOT NULL
) STRICT;
CREATE INDEX domains_by_project ON domains (project, id);

CREATE TABLE deliveries (
    id         BLOB PRIMARY KEY,
    project    TEXT NOT NULL,
    next_at    INTEGER,          -- NULL once it has ended
    expires_at INTEGER,          -- NULL until it has ended
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_by_project ON deliveries (project, id);
CREATE INDEX deliveries_due ON deliveries (next_at, id) WHERE next_at IS NOT NULL;
CREATE INDEX deliveries_expiring ON deliveries (expires_at) WHERE expires_at IS NOT NULL;

CREATE TABLE pipelines (
    project    TEXT NOT NULL,
    sha        TEXT NOT NULL,    -- the commit
    at         INTEGER NOT NULL,
    expires_at INTEGER,          -- NULL is never
    body       TEXT NOT NULL,
    PRIMARY KEY (project, sha)
) STRICT, WITHOUT ROWID;
CREATE INDEX pipelines_expiring ON pipelines (expires_at) WHERE expires_at IS NOT NULL;
