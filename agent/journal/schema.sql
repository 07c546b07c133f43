-- The journal. Times ending in _ns are nanoseconds since the epoch unless they say boot.
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE IF NOT EXISTS grants (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  jti TEXT NOT NULL,
  iss TEXT NOT NULL,
  sub TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('pending','opening','open','suspended','shutting','ended')),
  token BLOB NOT NULL,
  digest TEXT NOT NULL,
  iat INTEGER NOT NULL,
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
  fresh_within_s INTEGER, -- it needs a bulletin of its issuer no older than that; NULL: none
  supersedes TEXT, -- jti of the grant whose place it took
  UNIQUE (iss, jti)
) STRICT;
CREATE INDEX IF NOT EXISTS grants_live ON grants (state) WHERE state <> 'ended';

-- Write-ahead: a row stands here as 'intend', on disk, before its act.
CREATE TABLE IF NOT EXISTS steps (
  grant_id INTEGER NOT NULL REFERENCES grants (id),
  seq INTEGER NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intend','done','undone','taken')),
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

-- What was revoked, by whom, kept for grants that have not come yet. iat: of the revocation; through it a subject's are revoked.
CREATE TABLE IF NOT EXISTS revocations (
  iss TEXT NOT NULL,
  format TEXT NOT NULL CHECK (format IN ('jwt_id','iss_sub','email')),
  value TEXT NOT NULL,
  iat INTEGER NOT NULL,
  told TEXT NOT NULL,
  noted_s INTEGER NOT NULL,
  PRIMARY KEY (iss, format, value)
) STRICT, WITHOUT ROWID;

-- What is known of an issuer. revoked_through: revocations up to that iat are no longer kept one by one, so all grants are refused.
-- The bulletin: wall_ns and boot_ns are one moment, on both clocks, from which its age is counted.
CREATE TABLE IF NOT EXISTS issuers (
  iss TEXT PRIMARY KEY,
  revoked_through INTEGER NOT NULL DEFAULT -1,
  seq INTEGER NOT NULL DEFAULT -1,
  iat INTEGER NOT NULL DEFAULT 0,
  exp INTEGER NOT NULL DEFAULT 0,
  wall_ns INTEGER NOT NULL DEFAULT 0,
  boot_id TEXT NOT NULL DEFAULT '',
  boot_ns INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
