-- rdev.db, version 5: how many rows the queue has, without reading them.

CREATE TABLE counts (
    name TEXT PRIMARY KEY,             -- the table that is counted
    n    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO counts VALUES
    ('due', (SELECT count(*) FROM due)),
    ('later', (SELECT count(*) FROM later)),
    ('dead_letters', (SELECT count(*) FROM dead_letters));

-- A later version that makes one of these tables anew makes its triggers anew, and counts again.
CREATE TRIGGER due_inserted AFTER INSERT ON due
    BEGIN UPDATE counts SET n = n + 1 WHERE name = 'due'; END;
CREATE TRIGGER due_deleted AFTER DELETE ON due
    BEGIN UPDATE counts SET n = n - 1 WHERE name = 'due'; END;
CREATE TRIGGER later_inserted AFTER INSERT ON later
    BEGIN UPDATE counts SET n = n + 1 WHERE name = 'later'; END;
CREATE TRIGGER later_deleted AFTER DELETE ON later
    BEGIN UPDATE counts SET n = n - 1 WHERE name = 'later'; END;
CREATE TRIGGER dead_letters_inserted AFTER INSERT ON dead_letters
    BEGIN UPDATE counts SET n = n + 1 WHERE name = 'dead_letters'; END;
CREATE TRIGGER dead_letters_deleted AFTER DELETE ON dead_letters
    BEGIN UPDATE counts SET n = n - 1 WHERE name = 'dead_letters'; END;

-- The oldest of all that is due, and what is not due by a clock that has gone back.
CREATE INDEX due_by_time ON due (since);
