-- When the commit status of a task is sent to the forge next.
ALTER TABLE tasks ADD COLUMN status_due_at INTEGER;
CREATE INDEX tasks_status_due ON tasks (status_due_at, id) WHERE status_due_at IS NOT NULL;
