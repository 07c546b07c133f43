-- The whole state. Times are whole seconds since the epoch (UTC) unless a name says ms. JSON is canonical text.

-- What is true of this database: stream (the epoch of token ids, made once).
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;

CREATE TABLE host (
  token TEXT PRIMARY KEY,              -- base64url SHA-256 of the id: what certificates and URLs carry
  host_id TEXT NOT NULL UNIQUE,        -- the audience of its grants
  name TEXT NOT NULL UNIQUE,           -- what people call it
  address TEXT NOT NULL DEFAULT '',    -- what people give to ssh
  labels TEXT NOT NULL DEFAULT '{}',
  host_key TEXT NOT NULL,              -- public JWK: verifies its receipts, answers and seals
  hostname TEXT NOT NULL,
  version TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('enrolled', 'expelled')),
  bulletins INTEGER NOT NULL DEFAULT 1,
  bulletin_seq INTEGER NOT NULL DEFAULT 0,
  bulletin_due INTEGER NOT NULL DEFAULT 0,
  enrolled_at INTEGER NOT NULL,
  seen_at INTEGER,
  record_bytes INTEGER NOT NULL DEFAULT 0,     -- of its records kept here, against its quota
  recording_bytes INTEGER NOT NULL DEFAULT 0   -- the same of recordings
) STRICT;

-- Single use; the secret itself is never kept.
CREATE TABLE enrolment_token (
  id TEXT PRIMARY KEY,
  secret_hash BLOB NOT NULL,           -- SHA-256
  name TEXT NOT NULL,
  address TEXT NOT NULL,
  labels TEXT NOT NULL,
  bulletins INTEGER NOT NULL,
  replaces INTEGER NOT NULL,
  created_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  used_at INTEGER,
  used_by TEXT                         -- host token
) STRICT;

-- Client certificates that are good. One that is not here is refused.
CREATE TABLE certificate (
  serial TEXT PRIMARY KEY,             -- hex
  host TEXT NOT NULL REFERENCES host (token),
  not_after INTEGER NOT NULL
) STRICT;
CREATE INDEX certificate_of_host ON certificate (host);

CREATE TABLE request (
  id TEXT PRIMARY KEY,
  number INTEGER NOT NULL UNIQUE,      -- order of asking
  version INTEGER NOT NULL DEFAULT 1,
  subject TEXT NOT NULL,
  name TEXT NOT NULL,
  login TEXT NOT NULL,
  asked TEXT NOT NULL,                 -- canonical JSON of all that is asked and of what it expands to: what approvers approve
  digest TEXT NOT NULL,                -- hex SHA-256 of it
  template TEXT NOT NULL,
  title TEXT NOT NULL,
  ticket TEXT NOT NULL,
  extends TEXT REFERENCES request (id),
  break_glass INTEGER NOT NULL,
  needed INTEGER NOT NULL,             -- approvals
  approver_roles TEXT NOT NULL,        -- JSON list
  state TEXT NOT NULL CHECK (state IN ('waiting', 'open', 'denied', 'withdrawn', 'lapsed', 'revoked', 'ended')),
  why TEXT NOT NULL DEFAULT '',
  asked_at INTEGER NOT NULL,
  lapses_at INTEGER NOT NULL,
  opened_at INTEGER,
  ends_at INTEGER,
  review TEXT NOT NULL DEFAULT '' CHECK (review IN ('', 'open', 'justified', 'misused')),
  reviewed_by TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX request_of_subject ON request (subject, state);
CREATE INDEX request_by_state ON request (state, lapses_at);

CREATE TABLE approval (
  request TEXT NOT NULL REFERENCES request (id),
  by TEXT NOT NULL,                    -- the approver's subject
  verdict TEXT NOT NULL CHECK (verdict IN ('approved', 'denied', 'void')),
  digest TEXT NOT NULL,                -- of what they saw
  comment TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (request, by)
) STRICT;

CREATE TABLE grant_ (
  jti TEXT PRIMARY KEY,
  request TEXT NOT NULL REFERENCES request (id),
  host TEXT NOT NULL REFERENCES host (token),
  subject TEXT NOT NULL,
  login TEXT NOT NULL,
  iat INTEGER NOT NULL,
  nbf INTEGER NOT NULL,
  exp INTEGER NOT NULL,
  supersedes TEXT NOT NULL DEFAULT '',
  details TEXT NOT NULL,               -- authorization_details
  state TEXT NOT NULL CHECK (state IN ('sent', 'accepted', 'refused', 'revoking', 'ended')),
  code TEXT NOT NULL DEFAULT '',
  reason TEXT NOT NULL DEFAULT '',
  cause TEXT NOT NULL DEFAULT '',
  ended_at INTEGER,
  receipt TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX grant_of_request ON grant_ (request);
CREATE INDEX grant_of_host ON grant_ (host, exp);
CREATE INDEX grant_of_subject ON grant_ (subject, exp);

-- Signed words on their way to hosts. Written in the transaction that decided them; sent again until they expire.
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- the stream's id: grows, is never used twice
  host TEXT NOT NULL REFERENCES host (token),
  kind TEXT NOT NULL CHECK (kind IN ('grant', 'revocation', 'bulletin')),
  about TEXT NOT NULL DEFAULT '',       -- the jti or subject it is about
  token TEXT NOT NULL,
  expires_at INTEGER NOT NULL
) STRICT;
CREATE INDEX outbox_of_host ON outbox (host, id);
CREATE INDEX outbox_by_end ON outbox (expires_at);

-- What hosts said: answers and receipts (verified under their keys). Events go into event.
CREATE TABLE record (
  host TEXT NOT NULL REFERENCES host (token),
  key TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN ('answer', 'receipt', 'event')),
  body TEXT NOT NULL,                  -- empty for an event
  at INTEGER NOT NULL,
  PRIMARY KEY (host, key)
) STRICT;
CREATE INDEX record_by_age ON record (at);

-- Files below recordings/HOST/ID.tgr. size is what is durable.
CREATE TABLE recording (
  host TEXT NOT NULL REFERENCES host (token),
  id TEXT NOT NULL,
  size INTEGER NOT NULL,
  complete INTEGER NOT NULL,
  came_at INTEGER NOT NULL,
  jti TEXT NOT NULL DEFAULT '',        -- as its META says, once that is there
  subject TEXT NOT NULL DEFAULT '',
  login TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (host, id)
) STRICT;
CREATE INDEX recording_of_grant ON recording (jti);

-- The audit trail: every change of state has its row, written in the same transaction. ocsf: as it goes to a SIEM.
CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ms INTEGER NOT NULL,
  source TEXT NOT NULL,                -- host token, or '' for the control plane
  kind TEXT NOT NULL,
  severity INTEGER NOT NULL,           -- OCSF's severity_id
  request TEXT NOT NULL DEFAULT '',
  ocsf TEXT NOT NULL
) STRICT;
CREATE INDEX event_by_age ON event (at_ms);
CREATE INDEX event_of_request ON event (request) WHERE request <> '';

-- How far each sink has everything: at least once.
CREATE TABLE cursor (sink TEXT PRIMARY KEY, last INTEGER NOT NULL) STRICT;

-- When a subject was last revoked as a whole: what is issued for them later must carry a later iat (docs/PROTOCOL.md).
CREATE TABLE subject_revocation (subject TEXT PRIMARY KEY, iat INTEGER NOT NULL) STRICT;

-- SSH certificates that were issued: the serial is the number.
CREATE TABLE ssh_certificate (
  serial INTEGER PRIMARY KEY AUTOINCREMENT,
  request TEXT NOT NULL REFERENCES request (id),
  subject TEXT NOT NULL,
  fingerprint TEXT NOT NULL,
  valid_before INTEGER NOT NULL,
  at INTEGER NOT NULL
) STRICT;
