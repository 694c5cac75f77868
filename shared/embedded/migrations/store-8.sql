-- rdev.db, version 8: when each repository is looked through for refs that nobody needs, and when the commit status of a
-- task is sent to the forge next.

CREATE TABLE ref_looks (
    repository TEXT PRIMARY KEY,
    due        INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX ref_looks_due ON ref_looks (due, repository);

ALTER TABLE tasks ADD COLUMN status_due_at INTEGER;
CREATE INDEX tasks_status_due ON tasks (status_due_at, id) WHERE status_due_at IS NOT NULL;
