-- rdev.db, version 4: deletions that were cut short.

CREATE INDEX projects_deleting ON projects (changed_at) WHERE state = 'deleting';
