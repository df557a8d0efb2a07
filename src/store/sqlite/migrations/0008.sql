-- What has ended is not kept for ever: it is found by its end, and goes with all that belongs to it.
CREATE INDEX jobs_by_end         ON jobs (ended_at)          WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_by_requirement ON jobs (requirement_id);
CREATE INDEX runners_by_job      ON runners (job_id)         WHERE job_id IS NOT NULL;
CREATE INDEX runners_gone        ON runners (state_since)    WHERE state = 'gone' AND job_id IS NULL;
CREATE INDEX events_of_no_job    ON events (at)              WHERE job_id IS NULL;
CREATE INDEX idempotency_by_job  ON idempotency (job_id);

CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = OLD.state;
END;
-- Whatever asks for it: what is open stays.
CREATE TRIGGER jobs_open_stay BEFORE DELETE ON jobs WHEN OLD.ended_at IS NULL BEGIN
  SELECT RAISE(ABORT, 'an open job is not deleted');
END;
CREATE TRIGGER runners_open_stay BEFORE DELETE ON runners WHEN OLD.state <> 'gone' BEGIN
  SELECT RAISE(ABORT, 'an open runner is not deleted');
END;

-- When an attempt of the project ended last; of what was summed up before this was kept, now.
ALTER TABLE project_usage ADD COLUMN last_at INTEGER NOT NULL DEFAULT 0;
UPDATE project_usage SET last_at = unixepoch() * 1000;
CREATE INDEX project_usage_by_end ON project_usage (last_at);

-- Images that this coordinator had a machine's engine fetch, by their full names, and when a job last used them.
CREATE TABLE images (
  host    TEXT NOT NULL,
  image   TEXT NOT NULL,
  used_at INTEGER NOT NULL,
  PRIMARY KEY (host, image)
) STRICT, WITHOUT ROWID;
