-- GitLab may offer a job again that was given back to it: then several jobs of ours were made of it, of which only the newest may be open.
ALTER TABLE gitlab_jobs RENAME TO gitlab_jobs_once;
CREATE TABLE gitlab_jobs (
  job_id    TEXT PRIMARY KEY REFERENCES jobs (id),
  url       TEXT NOT NULL,
  gitlab_id INTEGER NOT NULL,
  reference TEXT,
  token     TEXT,
  payload   TEXT
) STRICT;
INSERT INTO gitlab_jobs SELECT job_id, url, gitlab_id, reference, token, payload FROM gitlab_jobs_once;
DROP TABLE gitlab_jobs_once;
CREATE INDEX gitlab_jobs_by_id ON gitlab_jobs (url, gitlab_id, job_id);
