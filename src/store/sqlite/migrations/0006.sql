-- What attempts used of their GPUs, and the sums of those that ended. GPU time is in milliseconds, each GPU counted; energy in millijoules.
CREATE TABLE gpu_usage (
  job_id  TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  usage   TEXT NOT NULL,
  PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;
-- '' is all jobs without a project.
CREATE TABLE project_usage (
  project    TEXT PRIMARY KEY,
  attempts   INTEGER NOT NULL,
  gpu_millis INTEGER NOT NULL,
  energy     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX project_usage_most ON project_usage (gpu_millis);
-- The same by the hour since 1970 in which attempts ended; older ones than a day are dropped.
CREATE TABLE project_usage_hours (
  hour       INTEGER NOT NULL,
  project    TEXT NOT NULL,
  gpu_millis INTEGER NOT NULL,
  PRIMARY KEY (hour, project)
) STRICT, WITHOUT ROWID;
