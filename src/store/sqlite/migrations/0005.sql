-- Limits of single projects, as configured at the last start. Jobs of a project that has one have requirements of their own (`project` is its
-- name, '' for all others), so that they are passed over together and the queue is not read.
CREATE TABLE project_caps (project TEXT PRIMARY KEY, max_running INTEGER, max_gpus INTEGER) STRICT, WITHOUT ROWID;
ALTER TABLE requirements ADD COLUMN project TEXT NOT NULL DEFAULT '';
CREATE TRIGGER jobs_moved AFTER UPDATE OF requirement_id ON jobs
WHEN OLD.requirement_id <> NEW.requirement_id AND NEW.state = 'queued' AND NEW.not_before IS NULL BEGIN
  UPDATE requirements SET ready = ready - 1 WHERE id = OLD.requirement_id;
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
