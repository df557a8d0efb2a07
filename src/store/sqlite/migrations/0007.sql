-- Machines that are to get empty, and why.
CREATE TABLE drains (host TEXT PRIMARY KEY, drain TEXT NOT NULL) STRICT, WITHOUT ROWID;
-- Jobs that repeat the request of another.
ALTER TABLE jobs ADD COLUMN retry_of TEXT REFERENCES jobs (id);
CREATE INDEX jobs_by_retry ON jobs (retry_of, id) WHERE retry_of IS NOT NULL;
-- The job of GitLab that a delivery was accepted for, and how it stood there; NULL where nothing was done for one.
ALTER TABLE deliveries ADD COLUMN url TEXT;
ALTER TABLE deliveries ADD COLUMN gitlab_id INTEGER;
ALTER TABLE deliveries ADD COLUMN status TEXT;
CREATE INDEX deliveries_by_job ON deliveries (gitlab_id, url, status, at) WHERE gitlab_id IS NOT NULL;
