-- A store of schema 8, with jobs in every state. Written by src/store/sqlite/upgrade_tests.rs.
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
CREATE TABLE deliveries (key TEXT PRIMARY KEY, event TEXT NOT NULL, outcome TEXT NOT NULL, at INTEGER NOT NULL, url TEXT, gitlab_id INTEGER, status TEXT) STRICT, WITHOUT ROWID;
CREATE TABLE drains (host TEXT PRIMARY KEY, drain TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE events (
  seq       INTEGER PRIMARY KEY AUTOINCREMENT,
  at        INTEGER NOT NULL,
  job_id    TEXT,
  runner_id TEXT,
  attempt   INTEGER,
  body      TEXT NOT NULL
) STRICT;
CREATE TABLE gitlab_jobs (
  job_id    TEXT PRIMARY KEY REFERENCES jobs (id),
  url       TEXT NOT NULL,
  gitlab_id INTEGER NOT NULL,
  reference TEXT,
  token     TEXT,
  payload   TEXT
) STRICT;
CREATE TABLE gpu_records (
  host   TEXT NOT NULL,
  gpu    TEXT NOT NULL,
  record TEXT NOT NULL,
  PRIMARY KEY (host, gpu)
) STRICT, WITHOUT ROWID;
CREATE TABLE gpu_usage (
  job_id  TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  usage   TEXT NOT NULL,
  PRIMARY KEY (job_id, attempt)
) STRICT, WITHOUT ROWID;
CREATE TABLE idempotency (key TEXT PRIMARY KEY, body_sha256 BLOB NOT NULL, job_id TEXT NOT NULL REFERENCES jobs (id), at INTEGER NOT NULL)
  STRICT, WITHOUT ROWID;
CREATE TABLE images (
  host    TEXT NOT NULL,
  image   TEXT NOT NULL,
  used_at INTEGER NOT NULL,
  PRIMARY KEY (host, image)
) STRICT, WITHOUT ROWID;
CREATE TABLE job_counts (state TEXT PRIMARY KEY, jobs INTEGER NOT NULL CHECK (jobs >= 0)) STRICT, WITHOUT ROWID;
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
, share INTEGER NOT NULL DEFAULT 0, retry_of TEXT REFERENCES jobs (id)) STRICT;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE project_caps (project TEXT PRIMARY KEY, max_running INTEGER, max_gpus INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE project_usage (
  project    TEXT PRIMARY KEY,
  attempts   INTEGER NOT NULL,
  gpu_millis INTEGER NOT NULL,
  energy     INTEGER NOT NULL
, last_at INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE project_usage_hours (
  hour       INTEGER NOT NULL,
  project    TEXT NOT NULL,
  gpu_millis INTEGER NOT NULL,
  PRIMARY KEY (hour, project)
) STRICT, WITHOUT ROWID;
CREATE TABLE queue_lengths (project TEXT PRIMARY KEY, jobs INTEGER NOT NULL CHECK (jobs >= 0)) STRICT, WITHOUT ROWID;
CREATE TABLE requirements (
  id    INTEGER PRIMARY KEY,
  key   TEXT NOT NULL UNIQUE,
  class TEXT NOT NULL,
  spec  TEXT NOT NULL,
  ready INTEGER NOT NULL DEFAULT 0 CHECK (ready >= 0)
, project TEXT NOT NULL DEFAULT '') STRICT;
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
CREATE TABLE share_times (priority INTEGER PRIMARY KEY, at INTEGER NOT NULL) STRICT;
CREATE TABLE shares (
  priority INTEGER NOT NULL,
  project  TEXT NOT NULL,
  promised INTEGER NOT NULL,
  served   INTEGER NOT NULL,
  cost     INTEGER NOT NULL,
  PRIMARY KEY (priority, project)
) STRICT, WITHOUT ROWID;
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a7763fd72b1ae954f8e4ccb5c66', 1, '01a22a7763fd72b1ae954f8fba6d0f7f', 'box1', '{"cpus":1000,"memory":268435456,"devices":[]}', 1700000000013, 1700000000014, '"succeeded"');
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a77640c702ebf87583cd2fec5c1', 1, '01a22a77640c702ebf87583d48bc99a0', 'box1', '{"cpus":1000,"memory":268435456,"devices":[]}', 1700000000023, 1700000000024, '{"failed":{"reason":"image_unavailable","exit_code":null,"detail":"it \"is\" not there; ''really''","disposition":"final"}}');
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a776419749cabe4a29abbd7621a', 1, '01a22a776419749cabe4a299fa252451', 'box1', '{"cpus":1000,"memory":1073741824,"devices":["GPU-1"]}', 1700000000033, 1700000000035, '"succeeded"');
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a77642272458d00fd774cec9984', 1, '01a22a77642272458d00fd7884a882a4', 'box1', '{"cpus":1000,"memory":268435456,"devices":[]}', 1700000000053, NULL, NULL);
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a776427717c9702fc529fb16b8e', 1, '01a22a776427717c9702fc5387fc71cf', 'box1', '{"cpus":1000,"memory":268435456,"devices":[]}', NULL, NULL, NULL);
INSERT INTO attempts (job_id, number, runner_id, host, placement, started_at, ended_at, outcome) VALUES ('01a22a77642a7350b39a9d16eb24fd1c', 1, '01a22a77642a7350b39a9d17e683c472', 'box1', '{"cpus":1000,"memory":268435456,"devices":[]}', NULL, 1700000000071, '{"failed":{"reason":"start_failed","exit_code":null,"detail":"the engine said no","disposition":"infrastructure"}}');
INSERT INTO deliveries (key, event, outcome, at, url, gitlab_id, status) VALUES ('d1', 'Job Hook', 'accepted', 1700000000080, 'https://gitlab.example.com', 4711, 'pending');
INSERT INTO drains (host, drain) VALUES ('box2', '{"since":"2023-11-14T22:13:20.085Z","by":null,"reason":"new disk"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (1, 1700000000000, '01a22a7763fd72b1ae954f8e4ccb5c66', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (2, 1700000000010, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (3, 1700000000011, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"container_created","container":"c1"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (4, 1700000000013, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"container_started"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (5, 1700000000014, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"attempt_ended","outcome":"succeeded"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (6, 1700000000014, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"ended"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (7, 1700000000016, '01a22a7763fd72b1ae954f8e4ccb5c66', '01a22a7763fd72b1ae954f8fba6d0f7f', 1, '{"kind":"runner_removed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (8, 1700000000000, '01a22a77640c702ebf87583cd2fec5c1', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (9, 1700000000020, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (10, 1700000000021, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"container_created","container":"c1"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (11, 1700000000023, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"container_started"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (12, 1700000000024, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"attempt_ended","outcome":{"failed":{"reason":"image_unavailable","exit_code":null,"detail":"it \"is\" not there; ''really''","disposition":"final"}}}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (13, 1700000000024, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"ended"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (14, 1700000000026, '01a22a77640c702ebf87583cd2fec5c1', '01a22a77640c702ebf87583d48bc99a0', 1, '{"kind":"runner_removed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (15, 1700000000000, '01a22a776419749cabe4a29abbd7621a', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (16, 1700000000030, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (17, 1700000000031, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"container_created","container":"c1"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (18, 1700000000033, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"container_started"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (19, 1700000000035, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"attempt_ended","outcome":"succeeded"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (20, 1700000000035, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"ended"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (21, 1700000000037, '01a22a776419749cabe4a29abbd7621a', '01a22a776419749cabe4a299fa252451', 1, '{"kind":"runner_removed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (22, 1700000000000, '01a22a77642175b4a1e16f5339ca82da', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (23, 1700000000040, '01a22a77642175b4a1e16f5339ca82da', NULL, NULL, '{"kind":"cancel_requested","reason":"canceled_by_user"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (24, 1700000000040, '01a22a77642175b4a1e16f5339ca82da', NULL, NULL, '{"kind":"ended"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (25, 1700000000000, '01a22a77642272458d00fd774cec9984', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (26, 1700000000050, '01a22a77642272458d00fd774cec9984', '01a22a77642272458d00fd7884a882a4', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (27, 1700000000051, '01a22a77642272458d00fd774cec9984', '01a22a77642272458d00fd7884a882a4', 1, '{"kind":"container_created","container":"c1"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (28, 1700000000053, '01a22a77642272458d00fd774cec9984', '01a22a77642272458d00fd7884a882a4', 1, '{"kind":"container_started"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (29, 1700000000000, '01a22a776427717c9702fc529fb16b8e', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (30, 1700000000060, '01a22a776427717c9702fc529fb16b8e', '01a22a776427717c9702fc5387fc71cf', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (31, 1700000000061, '01a22a776427717c9702fc529fb16b8e', '01a22a776427717c9702fc5387fc71cf', 1, '{"kind":"container_created","container":"c1"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (32, 1700000000000, '01a22a77642a7350b39a9d16eb24fd1c', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (33, 1700000000070, '01a22a77642a7350b39a9d16eb24fd1c', '01a22a77642a7350b39a9d17e683c472', 1, '{"kind":"claimed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (34, 1700000000071, '01a22a77642a7350b39a9d16eb24fd1c', '01a22a77642a7350b39a9d17e683c472', 1, '{"kind":"attempt_ended","outcome":{"failed":{"reason":"start_failed","exit_code":null,"detail":"the engine said no","disposition":"infrastructure"}}}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (35, 1700000000071, '01a22a77642a7350b39a9d16eb24fd1c', '01a22a77642a7350b39a9d17e683c472', 1, '{"kind":"retry_scheduled","not_before":"2023-11-14T22:13:21.071Z"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (36, 1700000000073, '01a22a77642a7350b39a9d16eb24fd1c', '01a22a77642a7350b39a9d17e683c472', 1, '{"kind":"runner_removed"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (37, 1700000000000, '01a22a77642f7414b28631f267fd8a2b', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (38, 1700000000000, '01a22a77643075caae5de93f74d851d7', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (39, 1700000000000, '01a22a77643177c7b783298b34c38be8', NULL, NULL, '{"kind":"submitted"}');
INSERT INTO events (seq, at, job_id, runner_id, attempt, body) VALUES (40, 1700000000080, '01a22a77643177c7b783298b34c38be8', NULL, NULL, '{"kind":"webhook","status":"pending"}');
INSERT INTO gitlab_jobs (job_id, url, gitlab_id, reference, token, payload) VALUES ('01a22a77643177c7b783298b34c38be8', 'https://gitlab.example.com', 4711, '{"url":"https://gitlab.example.com","job_id":4711,"project_id":1,"pipeline_id":null,"name":"build","stage":null,"ref_name":null,"sha":null,"keywords":{"image":null,"has_services":false}}', 'glcbt-secret', '{"id":1}');
INSERT INTO gpu_records (host, gpu, record) VALUES ('box1', 'GPU-1', '{"gpu":"GPU-1","usage":"checking","baseline":{"memory_used":5,"uncorrected_errors":null,"processes":[7]},"failures":1,"quarantine":null}');
INSERT INTO gpu_usage (job_id, attempt, usage) VALUES ('01a22a776419749cabe4a29abbd7621a', 1, '{"memory_peak":null,"busy":0,"observed":0,"energy":null,"last":null}');
INSERT INTO idempotency (key, body_sha256, job_id, at) VALUES ('once', X'0707070707070707070707070707070707070707070707070707070707070707', '01a22a77642f7414b28631f267fd8a2b', 1700000000000);
INSERT INTO job_counts (state, jobs) VALUES ('canceled', 1);
INSERT INTO job_counts (state, jobs) VALUES ('failed', 1);
INSERT INTO job_counts (state, jobs) VALUES ('queued', 4);
INSERT INTO job_counts (state, jobs) VALUES ('running', 1);
INSERT INTO job_counts (state, jobs) VALUES ('starting', 1);
INSERT INTO job_counts (state, jobs) VALUES ('succeeded', 2);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (1, '01a22a7763fd72b1ae954f8e4ccb5c66', 1, 'api', 'team/app', 'default', 9, '{"source":"api","project":"team/app","requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'succeeded', NULL, 1700000000014, '"succeeded"', 1, 0, 0, NULL, NULL, 1700000000000, 0, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (2, '01a22a77640c702ebf87583cd2fec5c1', 1, 'api', NULL, 'default', 9, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'failed', NULL, 1700000000024, '{"failed":{"reason":"image_unavailable","exit_code":null,"detail":"it \"is\" not there; ''really''","disposition":"final"}}', 1, 0, 0, NULL, NULL, 1700000000000, 0, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (3, '01a22a776419749cabe4a29abbd7621a', 1, 'api', 'team/gpu', 'default', 9, '{"source":"api","project":"team/gpu","requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'succeeded', NULL, 1700000000035, '"succeeded"', 1, 0, 0, NULL, NULL, 1700000000000, 0, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (4, '01a22a77642175b4a1e16f5339ca82da', 1, 'api', NULL, 'default', 9, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'canceled', NULL, 1700000000040, '{"canceled":{"reason":"canceled_by_user","detail":null}}', 0, 0, 0, 'canceled_by_user', 1700000000040, 1700000000000, 1000000, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (5, '01a22a77642272458d00fd774cec9984', 1, 'api', NULL, 'default', 9, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'running', NULL, NULL, NULL, 1, 0, 0, NULL, NULL, 1700000000000, 1000000, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (6, '01a22a776427717c9702fc529fb16b8e', 1, 'api', NULL, 'default', 9, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'starting', NULL, NULL, NULL, 1, 0, 0, NULL, NULL, 1700000000000, 2000000, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (7, '01a22a77642a7350b39a9d16eb24fd1c', 1, 'api', NULL, 'default', 9, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":9,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'queued', 1700000001071, NULL, NULL, 1, 1, 0, NULL, NULL, 1700000000000, 3000000, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (8, '01a22a77642f7414b28631f267fd8a2b', 1, 'api', NULL, 'default', 0, '{"source":"api","project":null,"requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":0,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'queued', NULL, NULL, NULL, 0, 0, 0, NULL, NULL, 1700000000000, 0, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (9, '01a22a77643075caae5de93f74d851d7', 2, 'api', 'team/capped', 'default', 0, '{"source":"api","project":"team/capped","requirement":{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":0,"retries":1,"work":{"command":{"image":"rc-test/busybox:1","command":["sh","-c","echo ran"],"env":{}}}}', 'queued', NULL, NULL, NULL, 0, 0, 0, NULL, NULL, 1700000000000, 0, NULL);
INSERT INTO jobs (order_key, id, requirement_id, source, project, class, priority, spec, state, not_before, ended_at, outcome, attempt, infrastructure_failures, own_failures, cancel_reason, cancel_at, created_at, share, retry_of) VALUES (10, '01a22a77643177c7b783298b34c38be8', 3, 'gitlab', NULL, 'gitlab', 0, '{"source":"gitlab","project":null,"requirement":{"class":"gitlab","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"},"timeout":{"secs":3600,"nanos":500000000},"priority":0,"retries":1,"work":{"git_lab":{"url":"https://gitlab.example.com","job_id":4711,"project_id":1,"pipeline_id":null,"name":"build","stage":null,"ref_name":null,"sha":null,"keywords":{"image":null,"has_services":false}}}}', 'queued', NULL, NULL, NULL, 0, 0, 0, NULL, NULL, 1700000000000, 1000000, NULL);
INSERT INTO meta (key, value) VALUES ('instance', '01a22a77-63f4-7064-90b4-720e7c8981d8');
INSERT INTO meta (key, value) VALUES ('ping', '0');
INSERT INTO project_caps (project, max_running, max_gpus) VALUES ('team/capped', 1, NULL);
INSERT INTO project_usage (project, attempts, gpu_millis, energy, last_at) VALUES ('team/gpu', 1, 2, 0, 1700000000035);
INSERT INTO project_usage_hours (hour, project, gpu_millis) VALUES (472222, 'team/gpu', 2);
INSERT INTO queue_lengths (project, jobs) VALUES ('', 3);
INSERT INTO queue_lengths (project, jobs) VALUES ('team/capped', 1);
INSERT INTO requirements (id, key, class, spec, ready, project) VALUES (1, 'class=default;cpus=1000;memory=1073741824', 'default', '{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"}', 1, '');
INSERT INTO requirements (id, key, class, spec, ready, project) VALUES (2, 'class=default;cpus=1000;memory=1073741824;project="team/capped"', 'default', '{"class":"default","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"}', 1, 'team/capped');
INSERT INTO requirements (id, key, class, spec, ready, project) VALUES (3, 'class=gitlab;cpus=1000;memory=1073741824', 'gitlab', '{"class":"gitlab","arch":null,"emulation":"deny","cpus":1000,"memory":1073741824,"gpus":null,"runtime":null,"start":"any"}', 1, '');
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a7763fd72b1ae954f8fba6d0f7f', 'default', 'box1', 'job', 'gone', 1700000000016, NULL, NULL, '01a22a7763fd72b1ae954f8e4ccb5c66', 1, '{"cpus":1000,"memory":268435456,"devices":[]}', 'c1', 1700000000000, NULL, 0, 7);
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a77640c702ebf87583d48bc99a0', 'default', 'box1', 'job', 'gone', 1700000000026, NULL, 'image_unavailable', '01a22a77640c702ebf87583cd2fec5c1', 1, '{"cpus":1000,"memory":268435456,"devices":[]}', 'c1', 1700000000000, NULL, 0, 7);
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a776419749cabe4a299fa252451', 'default', 'box1', 'job', 'gone', 1700000000037, NULL, NULL, '01a22a776419749cabe4a29abbd7621a', 1, '{"cpus":1000,"memory":1073741824,"devices":["GPU-1"]}', 'c1', 1700000000000, NULL, 0, 7);
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a77642272458d00fd7884a882a4', 'default', 'box1', 'job', 'busy', 1700000000053, NULL, NULL, '01a22a77642272458d00fd774cec9984', 1, '{"cpus":1000,"memory":268435456,"devices":[]}', 'c1', 1700000000000, NULL, 0, 7);
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a776427717c9702fc5387fc71cf', 'default', 'box1', 'job', 'starting', 1700000000000, NULL, NULL, '01a22a776427717c9702fc529fb16b8e', 1, '{"cpus":1000,"memory":268435456,"devices":[]}', 'c1', 1700000000000, NULL, 0, 0);
INSERT INTO runners (id, class, host, origin, state, state_since, start_sent, reason, job_id, attempt, placement, container, created_at, last_contact_at, restarts, engine_epoch) VALUES ('01a22a77642a7350b39a9d17e683c472', 'default', 'box1', 'job', 'gone', 1700000000073, NULL, 'start_failed', '01a22a77642a7350b39a9d16eb24fd1c', 1, '{"cpus":1000,"memory":268435456,"devices":[]}', NULL, 1700000000000, NULL, 0, 0);
INSERT INTO share_times (priority, at) VALUES (9, 3000000);
INSERT INTO shares (priority, project, promised, served, cost) VALUES (0, '', 2000000, 0, 1000000);
INSERT INTO shares (priority, project, promised, served, cost) VALUES (0, 'team/capped', 1000000, 0, 1000000);
INSERT INTO shares (priority, project, promised, served, cost) VALUES (9, '', 4000000, 4000000, 1000000);
INSERT INTO sqlite_sequence (name, seq) VALUES ('jobs', 10);
INSERT INTO sqlite_sequence (name, seq) VALUES ('events', 40);
CREATE INDEX deliveries_by_job ON deliveries (gitlab_id, url, status, at) WHERE gitlab_id IS NOT NULL;
CREATE INDEX deliveries_by_time ON deliveries (at);
CREATE INDEX events_by_job ON events (job_id) WHERE job_id IS NOT NULL;
CREATE INDEX events_of_no_job    ON events (at)              WHERE job_id IS NULL;
CREATE INDEX gitlab_jobs_by_id ON gitlab_jobs (url, gitlab_id, job_id);
CREATE INDEX idempotency_by_job  ON idempotency (job_id);
CREATE INDEX idempotency_by_time ON idempotency (at);
CREATE INDEX jobs_by_class     ON jobs (class, state, id);
CREATE INDEX jobs_by_end         ON jobs (ended_at)          WHERE ended_at IS NOT NULL;
CREATE INDEX jobs_by_project   ON jobs (project, state, id) WHERE project IS NOT NULL;
CREATE INDEX jobs_by_requirement ON jobs (requirement_id);
CREATE INDEX jobs_by_retry ON jobs (retry_of, id) WHERE retry_of IS NOT NULL;
CREATE INDEX jobs_by_state     ON jobs (state, id);
CREATE INDEX jobs_due          ON jobs (not_before) WHERE state = 'queued' AND not_before IS NOT NULL;
CREATE INDEX jobs_oldest       ON jobs (created_at) WHERE state = 'queued';
CREATE INDEX jobs_ready        ON jobs (requirement_id, priority DESC, share) WHERE state = 'queued' AND not_before IS NULL;
CREATE INDEX jobs_ready_gitlab ON jobs (requirement_id, priority DESC, share) WHERE state = 'queued' AND not_before IS NULL AND source = 'gitlab';
CREATE INDEX project_usage_by_end ON project_usage (last_at);
CREATE INDEX project_usage_most ON project_usage (gpu_millis);
CREATE INDEX requirements_ready ON requirements (class) WHERE ready > 0;
CREATE INDEX runners_by_class ON runners (class, state, id);
CREATE INDEX runners_by_job      ON runners (job_id)         WHERE job_id IS NOT NULL;
CREATE INDEX runners_by_state ON runners (state, id);
CREATE INDEX runners_gone        ON runners (state_since)    WHERE state = 'gone' AND job_id IS NULL;
CREATE INDEX runners_open     ON runners (host, id) WHERE state <> 'gone';
CREATE INDEX shares_behind ON shares (priority, promised);
CREATE TRIGGER jobs_changed AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = OLD.state;
  UPDATE job_counts SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER jobs_deleted AFTER DELETE ON jobs BEGIN
  UPDATE job_counts SET jobs = jobs - 1 WHERE state = OLD.state;
END;
CREATE TRIGGER jobs_inserted AFTER INSERT ON jobs BEGIN
  UPDATE job_counts SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER jobs_inserted_ready AFTER INSERT ON jobs WHEN NEW.state = 'queued' AND NEW.not_before IS NULL BEGIN
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_inserted_waiting AFTER INSERT ON jobs WHEN NEW.state = 'queued' BEGIN
  INSERT INTO queue_lengths VALUES (ifnull(NEW.project, ''), 1) ON CONFLICT (project) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_moved AFTER UPDATE OF requirement_id ON jobs
WHEN OLD.requirement_id <> NEW.requirement_id AND NEW.state = 'queued' AND NEW.not_before IS NULL BEGIN
  UPDATE requirements SET ready = ready - 1 WHERE id = OLD.requirement_id;
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_open_stay BEFORE DELETE ON jobs WHEN OLD.ended_at IS NULL BEGIN
  SELECT RAISE(ABORT, 'an open job is not deleted');
END;
CREATE TRIGGER jobs_ready_again AFTER UPDATE OF state, not_before ON jobs
WHEN (NEW.state = 'queued' AND NEW.not_before IS NULL) AND NOT (OLD.state = 'queued' AND OLD.not_before IS NULL) BEGIN
  UPDATE requirements SET ready = ready + 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_ready_no_more AFTER UPDATE OF state, not_before ON jobs
WHEN (OLD.state = 'queued' AND OLD.not_before IS NULL) AND NOT (NEW.state = 'queued' AND NEW.not_before IS NULL) BEGIN
  UPDATE requirements SET ready = ready - 1 WHERE id = NEW.requirement_id;
END;
CREATE TRIGGER jobs_waiting_again AFTER UPDATE OF state ON jobs WHEN OLD.state <> 'queued' AND NEW.state = 'queued' BEGIN
  INSERT INTO queue_lengths VALUES (ifnull(NEW.project, ''), 1) ON CONFLICT (project) DO UPDATE SET jobs = jobs + 1;
END;
CREATE TRIGGER jobs_waiting_no_more AFTER UPDATE OF state ON jobs WHEN OLD.state = 'queued' AND NEW.state <> 'queued' BEGIN
  UPDATE queue_lengths SET jobs = jobs - 1 WHERE project = ifnull(NEW.project, '');
  DELETE FROM queue_lengths WHERE project = ifnull(NEW.project, '') AND jobs = 0;
END;
CREATE TRIGGER runners_open_stay BEFORE DELETE ON runners WHEN OLD.state <> 'gone' BEGIN
  SELECT RAISE(ABORT, 'an open runner is not deleted');
END;
PRAGMA application_id = 1382957935;
PRAGMA user_version = 8;
