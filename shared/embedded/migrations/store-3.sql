-- rdev.db, version 3: the refs that a lease's holder is about to write.

ALTER TABLE leases ADD COLUMN own_refs TEXT; -- NULL: none since it was claimed
