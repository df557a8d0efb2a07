-- Fair share between projects: start-time fair queueing, by priority. Tags are in units of which a job of a project of weight 1 costs 1000000.

-- `share` is a job's start tag, given when it is stored and kept over its attempts. Among equal priorities the smallest goes first, among
-- equal tags the oldest. Jobs that were here before go by age, before all others.
ALTER TABLE jobs ADD COLUMN share INTEGER NOT NULL DEFAULT 0;
DROP INDEX jobs_ready;
DROP INDEX jobs_ready_gitlab;
CREATE INDEX jobs_ready        ON jobs (requirement_id, priority DESC, share) WHERE state = 'queued' AND not_before IS NULL;
CREATE INDEX jobs_ready_gitlab ON jobs (requirement_id, priority DESC, share) WHERE state = 'queued' AND not_before IS NULL AND source = 'gitlab';

-- The largest start tag that was claimed: where a project begins that has no job waiting.
CREATE TABLE share_times (priority INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
-- Projects ('' is those jobs without one) that are ahead of that time. `promised` is the end of the last job that was stored, `served` of
-- the last that was claimed, `cost` what a job of it costs.
CREATE TABLE shares (
  priority INTEGER NOT NULL,
  project  TEXT NOT NULL,
  promised INTEGER NOT NULL,
  served   INTEGER NOT NULL,
  cost     INTEGER NOT NULL,
  PRIMARY KEY (priority, project)
) STRICT, WITHOUT ROWID;
CREATE INDEX shares_behind ON shares (priority, promised);
