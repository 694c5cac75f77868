-- rdev.db, version 4: which project of its name a record belongs to, the order of what is due, and
-- whose turn it is.

-- The project's nonce. Of tasks from before: of the project that has the name now if it is older
-- than they are, else nil.
ALTER TABLE tasks ADD COLUMN project_nonce BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
UPDATE tasks SET project_nonce = p.nonce FROM projects p WHERE p.id = tasks.project AND p.nonce <= tasks.id;

ALTER TABLE deliveries ADD COLUMN project_nonce BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
UPDATE deliveries SET project_nonce = p.nonce FROM projects p
    WHERE p.id = deliveries.project AND p.nonce <= deliveries.id;

-- What is due is ordered by its rank: the time since when it is due, one hour (in milliseconds)
-- earlier for each step of priority.
CREATE TABLE due_by_rank (
    project  TEXT NOT NULL,
    agent    TEXT NOT NULL,            -- '' for unowned pushes and checks, which need none
    class    INTEGER NOT NULL,         -- 0 for unowned pushes, 1 for the rest
    rank     INTEGER NOT NULL,
    task     BLOB NOT NULL,
    since    INTEGER NOT NULL,
    PRIMARY KEY (project, agent, class, rank, task)
) STRICT, WITHOUT ROWID;
INSERT INTO due_by_rank SELECT project, agent, rank, since - (9 - priority) * 3600000, task, since FROM due;
DROP TABLE due;
ALTER TABLE due_by_rank RENAME TO due;
CREATE INDEX due_since ON due (project, since);

CREATE TABLE later_by_rank (
    project  TEXT NOT NULL,
    at       INTEGER NOT NULL,
    task     BLOB NOT NULL,
    agent    TEXT NOT NULL,
    class    INTEGER NOT NULL,
    rank     INTEGER NOT NULL,
    PRIMARY KEY (project, at, task)
) STRICT, WITHOUT ROWID;
INSERT INTO later_by_rank SELECT project, at, task, agent, rank, at - (9 - priority) * 3600000 FROM later;
DROP TABLE later;
ALTER TABLE later_by_rank RENAME TO later;
CREATE INDEX later_at ON later (at);

-- The projects with a free slot and something due, once for each agent, in the order in which
-- they are served.
ALTER TABLE projects ADD COLUMN served INTEGER NOT NULL DEFAULT 0; -- its latest claim; 0 is none
CREATE TABLE turns (
    project TEXT NOT NULL,
    agent   TEXT NOT NULL,
    held    INTEGER NOT NULL,          -- how many of its tasks have a lease
    served  INTEGER NOT NULL,
    PRIMARY KEY (project, agent)
) STRICT, WITHOUT ROWID;
CREATE INDEX turns_in_order ON turns (agent, held, served, project);
INSERT INTO turns
    SELECT DISTINCT due.project, due.agent,
           (SELECT count(*) FROM leases WHERE leases.project = due.project) AS held, 0
    FROM due JOIN projects ON projects.id = due.project
    WHERE projects.state <> 'deleting' AND held <
        CASE WHEN json_valid(projects.body) THEN json_extract(projects.body, '$.build_limit') END;

-- Since this version the URL of a repository below the data folder begins with file:///$data/repos/,
-- and a task may be marked as restored. Programs before this version would not find the
-- repositories, and would run an agent for a restored task whose commit is on its branch already.
-- What they have stored is read as it is.

-- Deletions that were cut short.
CREATE INDEX projects_deleting ON projects (changed_at) WHERE state = 'deleting';
