-- The journal. Times ending in _ns are nanoseconds since the epoch unless they say boot.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS grants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  jti TEXT NOT NULL,
  iss TEXT NOT NULL,
  sub TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending','opening','open','shutting','ended')),
  token BLOB NOT NULL,
  digest TEXT NOT NULL,
  nbf INTEGER NOT NULL,
  exp INTEGER NOT NULL,
  reason TEXT NOT NULL,
  ticket TEXT NOT NULL,
  summary TEXT NOT NULL,
  rule TEXT NOT NULL,
  not_containable TEXT NOT NULL, -- JSON list: why what it gives amounts to root
  logins TEXT NOT NULL,
  received_ns INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  boot_deadline_ns INTEGER NOT NULL,
  opened_ns INTEGER,
  ended_ns INTEGER,
  cause TEXT,
  cause_text TEXT NOT NULL DEFAULT '',
  attempts INTEGER NOT NULL DEFAULT 0,
  last_error TEXT NOT NULL DEFAULT '',
  UNIQUE (iss, jti)
) STRICT;
CREATE INDEX IF NOT EXISTS grants_live ON grants (state) WHERE state <> 'ended';

-- Write-ahead: a row stands here as 'intend', on disk, before its act.
CREATE TABLE IF NOT EXISTS steps (
  grant_id INTEGER NOT NULL REFERENCES grants (id),
  seq INTEGER NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intend','done','undone')),
  error TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (grant_id, seq)
) STRICT, WITHOUT ROWID;

-- What was observed about a grant while it stood, by name: the baseline before it opened, what sshd answered, its backstops.
CREATE TABLE IF NOT EXISTS notes (
  grant_id INTEGER NOT NULL REFERENCES grants (id),
  name TEXT NOT NULL,
  value TEXT NOT NULL,
  PRIMARY KEY (grant_id, name)
) STRICT, WITHOUT ROWID;

-- A UID is never used twice while anything of it is left: rows stay when the account is gone.
CREATE TABLE IF NOT EXISTS uids (
  uid INTEGER PRIMARY KEY,
  grant_id INTEGER NOT NULL,
  login TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('reserved','tombstone')),
  since_ns INTEGER NOT NULL,
  residue INTEGER NOT NULL DEFAULT 0, -- how much is left
  found TEXT NOT NULL DEFAULT '[]' -- JSON list: the first of it
) STRICT;

CREATE TABLE IF NOT EXISTS receipts (
  id TEXT PRIMARY KEY,
  grant_id INTEGER NOT NULL,
  issued_ns INTEGER NOT NULL,
  jws TEXT NOT NULL,
  shipped INTEGER NOT NULL DEFAULT 0 -- 1 once it lies in the outbox
) STRICT;

CREATE TABLE IF NOT EXISTS refusals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ns INTEGER NOT NULL,
  source TEXT NOT NULL,
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  field TEXT NOT NULL,
  jti TEXT NOT NULL,
  sub TEXT NOT NULL
) STRICT;
