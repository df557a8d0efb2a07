-- The image that a job's containers are made of, from the first container on.
ALTER TABLE jobs ADD COLUMN image TEXT;
