-- Times are milliseconds since 1970 in UTC. What is only carried is JSON in text; what is filtered, ordered or counted is a column.
-- Ids and names are compared byte by byte ("C"), whatever the database's own language is.

CREATE TABLE meta (key TEXT COLLATE "C" PRIMARY KEY, value TEXT NOT NULL);

-- Equal requirements share a row: few rows however many jobs. `project` is the project whose limits its jobs obey, '' where none.
CREATE TABLE requirements (
  id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  key     TEXT COLLATE "C" NOT NULL UNIQUE,
  class   TEXT COLLATE "C" NOT NULL,
  spec    TEXT NOT NULL,
  project TEXT COLLATE "C" NOT NULL DEFAULT '',
  gpus    BIGINT NOT NULL
);
CREATE INDEX requirements_by_class ON requirements (class);

-- `order_key` is the order of arrival. A job keeps it over its attempts, and so `share`, its start tag in the fair share of its priority.
CREATE TABLE jobs (
  order_key               BIGINT GENERATED ALWAYS AS IDENTITY,
  id                      TEXT COLLATE "C" PRIMARY KEY,
  requirement_id          BIGINT NOT NULL REFERENCES requirements (id),
  source                  TEXT COLLATE "C" NOT NULL,
  project                 TEXT COLLATE "C",
  class                   TEXT COLLATE "C" NOT NULL,
  priority                BIGINT NOT NULL,
  share                   BIGINT NOT NULL,
  spec                    TEXT NOT NULL,
  state                   TEXT COLLATE "C" NOT NULL CHECK (state IN ('queued', 'starting', 'running', 'succeeded', 'failed', 'canceled')),
  not_before              BIGINT,
  ended_at                BIGINT,
  outcome                 TEXT,
  attempt                 BIGINT NOT NULL DEFAULT 0,
  infrastructure_failures BIGINT NOT NULL DEFAULT 0,
  own_failures            BIGINT NOT NULL DEFAULT 0,
  cancel_reason           TEXT,
  cancel_at               BIGINT,
  created_at              BIGINT NOT NULL,
  retry_of                TEXT COLLATE "C",
  image                   TEXT
);
-- The queue: the head of each requirement is one seek away.
CREATE INDEX jobs_ready          ON jobs (requirement_id, priority DESC, share, order_key) WHERE state = 'queued' AND not_before IS NULL;
CREATE INDEX jobs_ready_gitlab   ON jobs (requirement_id, priority DESC, share, order_key)
  WHERE state = 'queued' AND not_before IS NULL AND source = 'gitlab';
CREATE INDEX jobs_due            ON jobs (not_before)         WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX jobs_oldest         ON jobs (created_at)         WHERE state = 'queued';
-- Lists, newest first: ids sort by time.
CREATE INDEX jobs_by_state       ON jobs (state, id);
CREATE INDEX jobs_by_project     ON jobs (project, state, id) WHERE project IS NOT NULL;
CREATE INDEX jobs_by_class       ON jobs (class, state, id);
CREATE INDEX jobs_by_retry       ON jobs (retry_of, id)       WHERE retry_of IS NOT NULL;
CREATE INDEX jobs_by_end         ON jobs (ended_at)           WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_by_requirement ON jobs (requirement_id);
-- Claims leave dead rows at the head of the queue, which every later claim would step over.
ALTER TABLE jobs SET (autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

CREATE TABLE attempts (
  job_id     TEXT COLLATE "C" NOT NULL REFERENCES jobs (id),
  number     BIGINT NOT NULL CHECK (number > 0),
  runner_id  TEXT COLLATE "C" NOT NULL,
  host       TEXT COLLATE "C" NOT NULL,
  placement  TEXT NOT NULL,
  started_at BIGINT,
  ended_at   BIGINT,
  outcome    TEXT,
  PRIMARY KEY (job_id, number)
);

CREATE TABLE runners (
  id              TEXT COLLATE "C" PRIMARY KEY,
  class           TEXT COLLATE "C" NOT NULL,
  host            TEXT COLLATE "C" NOT NULL,
  origin          TEXT NOT NULL,
  state           TEXT COLLATE "C" NOT NULL CHECK (state IN ('starting', 'idle', 'busy', 'stopping', 'lost', 'gone')),
  state_since     BIGINT NOT NULL,
  start_sent      BIGINT,
  reason          TEXT,
  job_id          TEXT COLLATE "C",
  attempt         BIGINT,
  placement       TEXT NOT NULL,
  container       TEXT,
  created_at      BIGINT NOT NULL,
  last_contact_at BIGINT,
  restarts        BIGINT NOT NULL,
  engine_epoch    BIGINT NOT NULL
);
CREATE INDEX runners_open     ON runners (host, id)      WHERE state <> 'gone';
CREATE INDEX runners_by_state ON runners (state, id);
CREATE INDEX runners_by_class ON runners (class, state, id);
CREATE INDEX runners_by_job   ON runners (job_id)        WHERE job_id IS NOT NULL;
CREATE INDEX runners_gone     ON runners (state_since)   WHERE state = 'gone' AND job_id IS NULL;

-- A position is drawn before its row is seen, and rows are seen out of order: `written_at` tells the reader whether a gap is still to be filled.
CREATE TABLE events (
  seq        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         BIGINT NOT NULL,
  job_id     TEXT COLLATE "C",
  runner_id  TEXT COLLATE "C",
  attempt    BIGINT,
  body       TEXT NOT NULL,
  written_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_by_job    ON events (job_id, seq) WHERE job_id IS NOT NULL;
CREATE INDEX events_of_no_job ON events (at)          WHERE job_id IS NULL;

-- What only the broker needs. The secret columns are emptied when the job ends; the row stays as long as the job.
CREATE TABLE gitlab_jobs (
  job_id    TEXT COLLATE "C" PRIMARY KEY,
  url       TEXT COLLATE "C" NOT NULL,
  gitlab_id BIGINT NOT NULL,
  reference TEXT,
  token     TEXT,
  payload   TEXT
);
CREATE INDEX gitlab_jobs_by_id ON gitlab_jobs (url, gitlab_id, job_id);

-- The job of GitLab that a delivery was accepted for, and how it stood there; NULL where nothing was done for one.
CREATE TABLE deliveries (
  key       TEXT COLLATE "C" PRIMARY KEY,
  event     TEXT NOT NULL,
  outcome   TEXT NOT NULL,
  at        BIGINT NOT NULL,
  url       TEXT COLLATE "C",
  gitlab_id BIGINT,
  status    TEXT COLLATE "C"
);
CREATE INDEX deliveries_by_time ON deliveries (at);
CREATE INDEX deliveries_by_job  ON deliveries (gitlab_id, url, status, at) WHERE gitlab_id IS NOT NULL;

CREATE TABLE idempotency (
  key         TEXT COLLATE "C" PRIMARY KEY,
  body_sha256 BYTEA NOT NULL,
  job_id      TEXT COLLATE "C" NOT NULL,
  at          BIGINT NOT NULL
);
CREATE INDEX idempotency_by_job ON idempotency (job_id);

-- Fair share between projects ('' is the jobs without one): start-time fair queueing, by priority.
CREATE TABLE share_times (priority BIGINT PRIMARY KEY, at BIGINT NOT NULL);
CREATE TABLE shares (
  priority BIGINT NOT NULL,
  project  TEXT COLLATE "C" NOT NULL,
  promised BIGINT NOT NULL,
  served   BIGINT NOT NULL,
  cost     BIGINT NOT NULL,
  PRIMARY KEY (priority, project)
);
CREATE INDEX shares_behind ON shares (priority, promised);

CREATE TABLE project_caps (project TEXT COLLATE "C" PRIMARY KEY, max_running BIGINT, max_gpus BIGINT);

CREATE TABLE gpu_records (
  host   TEXT COLLATE "C" NOT NULL,
  gpu    TEXT COLLATE "C" NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (host, gpu)
);
-- GPU time is in milliseconds, each GPU counted; energy in millijoules.
CREATE TABLE gpu_usage (
  job_id  TEXT COLLATE "C" NOT NULL,
  attempt BIGINT NOT NULL,
  usage   TEXT NOT NULL,
  PRIMARY KEY (job_id, attempt)
);
CREATE TABLE project_usage (
  project    TEXT COLLATE "C" PRIMARY KEY,
  attempts   BIGINT NOT NULL,
  gpu_millis BIGINT NOT NULL,
  energy     BIGINT NOT NULL,
  last_at    BIGINT NOT NULL
);
CREATE INDEX project_usage_most   ON project_usage (gpu_millis);
CREATE INDEX project_usage_by_end ON project_usage (last_at);
CREATE TABLE project_usage_hours (
  hour       BIGINT NOT NULL,
  project    TEXT COLLATE "C" NOT NULL,
  gpu_millis BIGINT NOT NULL,
  PRIMARY KEY (hour, project)
);

-- Machines. `instance` is what their containers carry, `machine` tells machines of one name apart ('' before its daemon came), `lease` grows with every daemon that starts there and
-- whenever the others take it for lost; since `unbroken_since` it was renewed in time; `report` is what its daemon told of it last.
CREATE TABLE hosts (
  host       TEXT COLLATE "C" PRIMARY KEY,
  instance   TEXT NOT NULL,
  machine    TEXT NOT NULL,
  lease      BIGINT NOT NULL,
  renewed_at TIMESTAMPTZ NOT NULL,
  unbroken_since TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
  report     TEXT,
  fenced_at  TIMESTAMPTZ,
  fenced_by  TEXT COLLATE "C"
);

CREATE TABLE drains (host TEXT COLLATE "C" PRIMARY KEY, drain TEXT NOT NULL);

CREATE TABLE images (
  host    TEXT COLLATE "C" NOT NULL,
  image   TEXT COLLATE "C" NOT NULL,
  used_at BIGINT NOT NULL,
  PRIMARY KEY (host, image)
);

-- How many jobs there are, without reading them: a number is the sum of its rows. Every change adds rows and none is updated, so no two
-- transactions wait for each other over a number; now and then rows of a number are put together. Only the triggers below add to it.
--   state: jobs by state · queue: jobs that wait by project, '' those without · ready: jobs by requirement that may start now
CREATE TABLE tallies (kind TEXT COLLATE "C" NOT NULL, key TEXT COLLATE "C" NOT NULL, n BIGINT NOT NULL);
CREATE INDEX tallies_by_key ON tallies (kind, key) INCLUDE (n);
ALTER TABLE tallies SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, autovacuum_vacuum_cost_delay = 0);

CREATE FUNCTION jobs_inserted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tallies (kind, key, n)
    SELECT 'state', state, count(*) FROM added GROUP BY state
    UNION ALL SELECT 'queue', coalesce(project, ''), count(*) FROM added WHERE state = 'queued' GROUP BY project
    UNION ALL SELECT 'ready', requirement_id::text, count(*) FROM added WHERE state = 'queued' AND not_before IS NULL GROUP BY requirement_id;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION jobs_inserted();

CREATE FUNCTION jobs_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tallies (kind, key, n)
    SELECT kind, key, sum(n) FROM (
      SELECT 'state' AS kind, state AS key, 1 AS n FROM after
      UNION ALL SELECT 'state', state, -1 FROM before
      UNION ALL SELECT 'queue', coalesce(project, ''), 1 FROM after WHERE state = 'queued'
      UNION ALL SELECT 'queue', coalesce(project, ''), -1 FROM before WHERE state = 'queued'
      UNION ALL SELECT 'ready', requirement_id::text, 1 FROM after WHERE state = 'queued' AND not_before IS NULL
      UNION ALL SELECT 'ready', requirement_id::text, -1 FROM before WHERE state = 'queued' AND not_before IS NULL
    ) AS changes GROUP BY kind, key HAVING sum(n) <> 0;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_changed AFTER UPDATE ON jobs REFERENCING OLD TABLE AS before NEW TABLE AS after
  FOR EACH STATEMENT EXECUTE FUNCTION jobs_changed();

CREATE FUNCTION jobs_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO tallies (kind, key, n) SELECT 'state', state, -count(*) FROM gone GROUP BY state;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION jobs_deleted();

-- Whatever asks for it: what is open stays.
CREATE FUNCTION open_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'what is open in % is not deleted', TG_TABLE_NAME;
END $$;
CREATE TRIGGER jobs_open_stay BEFORE DELETE ON jobs FOR EACH ROW WHEN (OLD.ended_at IS NULL) EXECUTE FUNCTION open_stays();
CREATE TRIGGER runners_open_stay BEFORE DELETE ON runners FOR EACH ROW WHEN (OLD.state <> 'gone') EXECUTE FUNCTION open_stays();
