-- Times are milliseconds since 1970 in UTC. What is only carried is JSON; what is filtered, ordered or counted is a column.

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- Equal requirements share a row: few rows however many jobs. `ready` is how many jobs of it may start now, kept by the triggers below.
CREATE TABLE requirements (
  id    INTEGER PRIMARY KEY,
  key   TEXT NOT NULL UNIQUE,
  class TEXT NOT NULL,
  spec  TEXT NOT NULL,
  ready INTEGER NOT NULL DEFAULT 0 CHECK (ready >= 0)
) STRICT;
CREATE INDEX requirements_ready ON requirements (class) WHERE ready > 0;

-- `order_key` is the order of arrival. A job keeps it over its attempts, so one that is tried again does not go to the end.
CREATE TABLE jobs (
  order_key               INTEGER PRIMARY KEY AUTOINCREMENT,
  id                      TEXT NOT NULL UNIQUE,
  requirement_id          INTEGER NOT NULL REFERENCES requirements (id),
  source                  TEXT NOT NULL,
  project                 TEXT,
  class                   TEXT NOT NULL,
  priority                INTEGER NOT NULL,
  spec                    TEXT NOT NULL,
  state                   TEXT NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'succeeded', 'failed', 'canceled')),
  not_before              INTEGER,
  ended_at                INTEGER,
  outcome                 TEXT,
  attempt                 INTEGER NOT NULL DEFAULT 0,
  infrastructure_failures INTEGER NOT NULL DEFAULT 0,
  own_failures            INTEGER NOT NULL DEFAULT 0,
  cancel_reason           TEXT,
  cancel_at               INTEGER,
  created_at              INTEGER NOT NULL
) STRICT;
-- The queue: the head of each requirement is one seek away (the rowid, order_key, is the last part of every index).
CREATE INDEX jobs_ready        ON jobs (requirement_id, priority DESC) WHERE state = 'queued' AND not_before IS NULL;
CREATE INDEX jobs_ready_gitlab ON jobs (requirement_id, priority DESC) WHERE state = 'queued' AND not_before IS NULL AND source = 'gitlab';
CREATE INDEX jobs_due          ON jobs (not_before) WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX jobs_oldest       ON jobs (created_at) WHERE state = 'queued';
-- Lists, newest first: ids sort by time.
CREATE INDEX jobs_by_state     ON jobs (state, id);
CREATE INDEX jobs_by_project   ON jobs (project, state, id) WHERE project IS NOT NULL;
CREATE INDEX jobs_by_class     ON jobs (class, state, id);

CREATE TABLE attempts (
  job_id     TEXT NOT NULL REFERENCES jobs (id),
  number     INTEGER NOT NULL CHECK (number > 0),
  runner_id  TEXT NOT NULL,
  host       TEXT NOT NULL,
  placement  TEXT NOT NULL,
  started_at INTEGER,
  ended_at   INTEGER,
  outcome    TEXT,
  PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE runners (
  id              TEXT PRIMARY KEY,
  class           TEXT NOT NULL,
  host            TEXT NOT NULL,
  origin          TEXT NOT NULL,
  state           TEXT NOT NULL CHECK (state IN ('starting', 'idle', 'busy', 'stopping', 'lost', 'gone')),
  state_since     INTEGER NOT NULL,
  start_sent      INTEGER,
  reason          TEXT,
  job_id          TEXT REFERENCES jobs (id),
  attempt         INTEGER,
  placement       TEXT NOT NULL,
  container       TEXT,
  created_at      INTEGER NOT NULL,
  last_contact_at INTEGER,
  restarts        INTEGER NOT NULL,
  engine_epoch    INTEGER NOT NULL
) STRICT;
CREATE INDEX runners_open     ON runners (host, id) WHERE state <> 'gone';
CREATE INDEX runners_by_state ON runners (state, id);
CREATE INDEX runners_by_class ON runners (class, state, id);

CREATE TABLE events (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT,
  at        INTEGER NOT NULL,
  job_id    TEXT,
  runner_id TEXT,
  attempt   INTEGER,
  body      TEXT NOT NULL
) STRICT;
CREATE INDEX events_by_job ON events (job_id) WHERE job_id IS NOT NULL;

-- What only the broker needs. The secret columns are emptied when the job ends; the row stays, so that the same job is never taken twice.
CREATE TABLE gitlab_jobs (
  job_id    TEXT PRIMARY KEY REFERENCES jobs (id),
  url       TEXT NOT NULL,
  gitlab_id INTEGER NOT NULL,
  reference TEXT,
  token     TEXT,
  payload   TEXT,
  UNIQUE (url, gitlab_id)
) STRICT;

CREATE TABLE deliveries (key TEXT PRIMARY KEY, event TEXT NOT NULL, outcome TEXT NOT NULL, at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_time ON deliveries (at);
CREATE TABLE idempotency (key TEXT PRIMARY KEY, body_sha256 BLOB NOT NULL, job_id TEXT NOT NULL REFERENCES jobs (id), at INTEGER NOT NULL)
  STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_by_time ON idempotency (at);

-- Counters, so that no question about numbers reads the queue. Only these triggers write them.
CREATE TABLE job_counts (state TEXT PRIMARY KEY, jobs INTEGER NOT NULL CHECK (jobs >= 0)) STRICT, WITHOUT ROWID;
INSERT INTO job_counts VALUES ('queued', 0), ('starting', 0), ('running', 0), ('succeeded', 0), ('failed', 0), ('canceled', 0);
-- Jobs that wait (a back-off included) by project; '' is those without one. Rows at zero are dropped.
CREATE TABLE queue_lengths (project TEXT PRIMARY KEY, jobs INTEGER NOT NULL CHECK (jobs >= 0)) STRICT, WITHOUT ROWID;

CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN
  UPDATE job_counts SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER jobs_inserted_waiting AFTER INSERT ON jobs WHEN NEW.state = 'queued' BEGIN
  INSERT INTO queue_lengths VALUES (ifnull(NEW.project, ''), 1) ON CONFLICT (project) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_inserted_ready AFTER INSERT ON jobs WHEN NEW.state = 'queued' AND NEW.not_before IS NULL BEGIN
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_changed AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = OLD.state;
  UPDATE job_counts SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER jobs_waiting_again AFTER UPDATE OF state ON jobs WHEN OLD.state <> 'queued' AND NEW.state = 'queued' BEGIN
  INSERT INTO queue_lengths VALUES (ifnull(NEW.project, ''), 1) ON CONFLICT (project) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_waiting_no_more AFTER UPDATE OF state ON jobs WHEN OLD.state = 'queued' AND NEW.state <> 'queued' BEGIN
  UPDATE queue_lengths SET jobs = jobs - 1 WHERE project = ifnull(NEW.project, '');
  DELETE FROM queue_lengths WHERE project = ifnull(NEW.project, '') AND jobs = 0;
END;
CREATE TRIGGER jobs_ready_again AFTER UPDATE OF state, not_before ON jobs
WHEN (NEW.state = 'queued' AND NEW.not_before IS NULL) AND NOT (OLD.state = 'queued' AND OLD.not_before IS NULL) BEGIN
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_ready_no_more AFTER UPDATE OF state, not_before ON jobs
WHEN (OLD.state = 'queued' AND OLD.not_before IS NULL) AND NOT (NEW.state = 'queued' AND NEW.not_before IS NULL) BEGIN
  UPDATE requirements SET ready = ready - 1 WHERE id = NEW.requirement_id;
END;
