-- rdev.db, version 6: the agent that a wake-up is for.

-- '' for work that needs none. Entries from before: whoever receives the wake-up sends it on.
ALTER TABLE marks ADD COLUMN agent TEXT NOT NULL DEFAULT '';
