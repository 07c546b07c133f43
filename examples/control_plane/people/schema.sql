-- Who is known here. A row of `person` is never deleted: its subject and login never become somebody else's.
CREATE TABLE IF NOT EXISTS person (
  id INTEGER PRIMARY KEY,
  issuer TEXT NOT NULL,                    -- of the OpenID provider, or 'local'
  issuer_subject TEXT NOT NULL,            -- the provider's own sub; of a local account its name
  subject TEXT NOT NULL,                   -- the sub of grants
  subject_folded TEXT NOT NULL UNIQUE,     -- no two that differ in case or width alone
  login TEXT NOT NULL UNIQUE,              -- on hosts
  name TEXT NOT NULL,
  email TEXT NOT NULL,                     -- verified by the provider; '' else
  created INTEGER NOT NULL,                -- seconds since the epoch, as all times here
  seen INTEGER NOT NULL,                   -- the last login
  ended INTEGER,                           -- when they were offboarded
  ended_by TEXT,
  ended_reason TEXT,
  UNIQUE (issuer, issuer_subject)
) STRICT;
CREATE TABLE IF NOT EXISTS person_role (
  person INTEGER NOT NULL REFERENCES person (id),
  role TEXT NOT NULL,
  PRIMARY KEY (person, role)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS person_session (
  digest TEXT PRIMARY KEY,                 -- SHA-256 of the bearer, in hex
  person INTEGER NOT NULL REFERENCES person (id),
  created INTEGER NOT NULL,
  expires INTEGER NOT NULL,
  sid TEXT NOT NULL                        -- the provider's own session; '' where it names none
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS person_session_person ON person_session (person);
CREATE TABLE IF NOT EXISTS local_account (
  person INTEGER PRIMARY KEY REFERENCES person (id),
  salt BLOB NOT NULL,
  digest BLOB NOT NULL,
  cost INTEGER NOT NULL                    -- scrypt's N
) STRICT;
CREATE TABLE IF NOT EXISTS used_token (    -- each ID token and logout token is taken once
  fingerprint TEXT PRIMARY KEY,
  expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
