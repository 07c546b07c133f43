-- A journal of commit 2032f2d, the first there was, written by its own code: an ended grant, an open, an opening, a pending.
PRAGMA user_version=1;
BEGIN TRANSACTION;
CREATE TABLE grants (
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
INSERT INTO "grants" VALUES(1,'over','https://cp','alice@example.com','ended',X'746F6B656E2D6F766572','over000000000000000000000000000000000000000000000000000000000000',1800000000,1800000600,'why','T-1','s','r','["jit-over"]',1800000000000000000,'boot-1',5000000000,1800000000000000001,1800000000000000002,'revoked','by an order',1,'');
INSERT INTO "grants" VALUES(2,'open','https://cp','alice@example.com','open',X'746F6B656E2D6F70656E','open000000000000000000000000000000000000000000000000000000000000',1800000000,1800000600,'why','T-1','s','r','["jit-open"]',1800000000000000000,'boot-1',5000000000,1800000000000000001,NULL,NULL,'',0,'');
INSERT INTO "grants" VALUES(3,'opening','https://cp','alice@example.com','opening',X'746F6B656E2D6F70656E696E67','opening000000000000000000000000000000000000000000000000000000000',1800000000,1800000600,'why','T-1','s','r','["jit-opening"]',1800000000000000000,'boot-1',5000000000,NULL,NULL,NULL,'',0,'');
INSERT INTO "grants" VALUES(4,'pending','https://cp','alice@example.com','pending',X'746F6B656E2D70656E64696E67','pending000000000000000000000000000000000000000000000000000000000',1800000000,1800000600,'why','T-1','s','r','["jit-pending"]',1800000000000000000,'boot-1',5000000000,NULL,NULL,NULL,'',0,'');
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
INSERT INTO "meta" VALUES('last_uid','70002');
CREATE TABLE receipts (
  id TEXT PRIMARY KEY,
  grant_id INTEGER NOT NULL,
  issued_ns INTEGER NOT NULL,
  jws TEXT NOT NULL
) STRICT;
INSERT INTO "receipts" VALUES('receipt-over',1,1800000000000000002,'a.b.c');
CREATE TABLE refusals (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at_ns INTEGER NOT NULL,
  source TEXT NOT NULL,
  code TEXT NOT NULL,
  reason TEXT NOT NULL,
  field TEXT NOT NULL,
  jti TEXT NOT NULL,
  sub TEXT NOT NULL
) STRICT;
INSERT INTO "refusals" VALUES(1,1,'x.jwt','c','why','f','','');
CREATE TABLE steps (
  grant_id INTEGER NOT NULL REFERENCES grants (id),
  seq INTEGER NOT NULL,
  step TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('intend','done','undone')),
  error TEXT NOT NULL DEFAULT '',
  PRIMARY KEY (grant_id, seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "steps" VALUES(1,0,'{"action":"make","data":{"n":0},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 0","target":"t0"}','done','');
INSERT INTO "steps" VALUES(1,1,'{"action":"make","data":{"n":1},"enforcer":"fake","phase":"close","stage":"create","summary":"step 1","target":"t1"}','done','');
INSERT INTO "steps" VALUES(1,2,'{"action":"make","data":{"n":2},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 2","target":"t2"}','done','');
INSERT INTO "steps" VALUES(2,0,'{"action":"make","data":{"n":0},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 0","target":"t0"}','done','');
INSERT INTO "steps" VALUES(2,1,'{"action":"make","data":{"n":1},"enforcer":"fake","phase":"close","stage":"create","summary":"step 1","target":"t1"}','done','');
INSERT INTO "steps" VALUES(2,2,'{"action":"make","data":{"n":2},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 2","target":"t2"}','done','');
INSERT INTO "steps" VALUES(3,0,'{"action":"make","data":{"n":0},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 0","target":"t0"}','intend','');
INSERT INTO "steps" VALUES(3,1,'{"action":"make","data":{"n":1},"enforcer":"fake","phase":"close","stage":"create","summary":"step 1","target":"t1"}','intend','');
INSERT INTO "steps" VALUES(3,2,'{"action":"make","data":{"n":2},"enforcer":"fake","phase":"remove","stage":"create","summary":"step 2","target":"t2"}','intend','');
CREATE TABLE uids (
  uid INTEGER PRIMARY KEY,
  grant_id INTEGER NOT NULL,
  login TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('reserved','tombstone')),
  since_ns INTEGER NOT NULL,
  residue INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "uids" VALUES(70000,1,'jit-over','tombstone',1800000000000000002,0);
INSERT INTO "uids" VALUES(70001,2,'jit-open','reserved',1800000000000000000,0);
INSERT INTO "uids" VALUES(70002,3,'jit-opening','reserved',1800000000000000000,0);
CREATE INDEX grants_live ON grants (state) WHERE state <> 'ended';
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('grants',4);
INSERT INTO "sqlite_sequence" VALUES('refusals',1);
COMMIT;
