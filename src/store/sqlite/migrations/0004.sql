-- What is remembered of a machine's GPUs beyond a restart: how each was before the job that has it, and whether it is in quarantine and why.
CREATE TABLE gpu_records (
  host   TEXT NOT NULL,
  gpu    TEXT NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (host, gpu)
) STRICT, WITHOUT ROWID;
