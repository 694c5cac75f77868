-- rdev.db, version 8: when each repository is looked through for refs that nobody needs.

CREATE TABLE ref_looks (
    repository TEXT PRIMARY KEY,
    due        INTEGER NOT NULL,
    body       TEXT NOT NULL
) STRICT;
CREATE INDEX ref_looks_due ON ref_looks (due, repository);
