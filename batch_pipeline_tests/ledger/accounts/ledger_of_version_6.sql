-- A ledger of version 6, made by its code: the night of 2026-01-01 is complete, that of 2026-01-02 has
-- 30 requests in flight and 12 that wait.
CREATE TABLE account ( name VARCHAR(100) NOT NULL, simulated BOOLEAN NOT NULL, paused_reason TEXT, paused_at
  DOUBLE, paused_by_results BOOLEAN DEFAULT 0 NOT NULL, probe_at DOUBLE, probe_seconds DOUBLE, lifted_at
  DOUBLE, wait_until DOUBLE NOT NULL, reads_wait_until DOUBLE DEFAULT '0' NOT NULL, workspace VARCHAR(200),
  key_workspace VARCHAR(200), unanswered JSON, PRIMARY KEY (name) );
INSERT INTO "account" VALUES('default',0,NULL,NULL,0,NULL,NULL,NULL,0.0,0.0,NULL,NULL,NULL);
CREATE TABLE night ( id INTEGER NOT NULL, job VARCHAR(200) NOT NULL, partition VARCHAR(200) NOT NULL,
  account VARCHAR(100) NOT NULL, created_at DOUBLE NOT NULL, snapshot_id INTEGER, open_requests BIGINT NOT
  NULL, undecided BIGINT DEFAULT '0' NOT NULL, revision INTEGER NOT NULL, published BOOLEAN NOT NULL,
  rebuilding BOOLEAN NOT NULL, held_at DOUBLE, refused TEXT, wanted_room_at DOUBLE NOT NULL, pilot JSON,
  estimate JSON, short_of_budget JSON, over_budget TEXT, deadline_at DOUBLE, pruned_at DOUBLE,
  realtime_since DOUBLE, retry_at DOUBLE, retry_rounds INTEGER DEFAULT '0' NOT NULL, waits_for VARCHAR(200),
  output JSON, held_twins BIGINT DEFAULT '0' NOT NULL, storm_since DOUBLE, forecast JSON, completed_at
  DOUBLE, PRIMARY KEY (id), UNIQUE (job, partition, account), FOREIGN KEY(account) REFERENCES account (name)
  );
INSERT INTO "night"
  VALUES(1,'job','2026-01-01','default',1.79605902856564331052e+09,1,0,0,3,1,0,NULL,NULL,0.0,NULL,NULL,'null',NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,0,NULL,'null',1000000.0);
INSERT INTO "night"
  VALUES(2,'job','2026-01-02','default',1.79605902871540045739e+09,2,0,0,2,0,0,NULL,NULL,0.0,NULL,NULL,'null',NULL,NULL,NULL,NULL,NULL,0,NULL,NULL,0,NULL,'null',NULL);
CREATE TABLE schema_version ( version INTEGER NOT NULL );
INSERT INTO "schema_version" VALUES(6);
CREATE TABLE seen ( account VARCHAR(100) NOT NULL, batch_id VARCHAR(100) NOT NULL, submission_id INTEGER,
  PRIMARY KEY (account, batch_id), FOREIGN KEY(account) REFERENCES account (name), FOREIGN
  KEY(submission_id) REFERENCES submission (id) );
INSERT INTO "seen" VALUES('default','msgbatch_done',1);
INSERT INTO "seen" VALUES('default','msgbatch_flies',2);
CREATE TABLE shard ( id INTEGER NOT NULL, night_id INTEGER NOT NULL, snapshot_id INTEGER NOT NULL, engine
  VARCHAR(20) NOT NULL, pilot BOOLEAN NOT NULL, manifest TEXT NOT NULL, requests INTEGER NOT NULL, bytes
  BIGINT NOT NULL, usd_bound BIGINT NOT NULL, prompt_size BIGINT, largest_bytes BIGINT NOT NULL,
  output_tokens BIGINT NOT NULL, parts JSON, optional BOOLEAN DEFAULT 0 NOT NULL, for_deadline BOOLEAN NOT
  NULL, refused_by INTEGER, origin INTEGER, warms VARCHAR(32), state VARCHAR(20) NOT NULL, created_at DOUBLE
  NOT NULL, PRIMARY KEY (id), FOREIGN KEY(night_id) REFERENCES night (id), FOREIGN KEY(snapshot_id)
  REFERENCES snapshot (id) );
INSERT INTO "shard"
  VALUES(1,1,1,'batch',0,'m',10,1,1000000000000,NULL,1,1,NULL,0,0,NULL,NULL,NULL,'collected',1.79605902858421540265e+09);
INSERT INTO "shard"
  VALUES(2,2,2,'batch',0,'m',30,1,1000000000000,NULL,1,1,NULL,0,0,NULL,NULL,NULL,'claimed',1.79605902873166966443e+09);
INSERT INTO "shard"
  VALUES(3,2,2,'batch',0,'m',12,1,1000000000000,NULL,1,1,NULL,0,0,NULL,NULL,NULL,'waiting',1.79605902873166966443e+09);
CREATE TABLE snapshot ( id INTEGER NOT NULL, night_id INTEGER NOT NULL, folder TEXT NOT NULL, signature
  VARCHAR(64) NOT NULL, content_hash VARCHAR(64) NOT NULL, declaration_hash VARCHAR(64) NOT NULL,
  declaration JSON NOT NULL, parts INTEGER NOT NULL, items BIGINT NOT NULL, set_aside JSON NOT NULL,
  duplicates BIGINT NOT NULL, request_bytes BIGINT NOT NULL, prompt_size BIGINT, visual_tokens BIGINT,
  documents JSON, kept BIGINT DEFAULT '0' NOT NULL, below JSON DEFAULT '[]' NOT NULL, avoided JSON DEFAULT
  '{}' NOT NULL, source JSON, settled JSON NOT NULL, taken_at DOUBLE NOT NULL, PRIMARY KEY (id), FOREIGN
  KEY(night_id) REFERENCES night (id) );
INSERT INTO "snapshot"
  VALUES(1,1,'f','s','c','d','{}',1,100,'{}',0,1,NULL,NULL,NULL,0,'[]','{}',NULL,'{}',1.79605902857164335248e+09);
INSERT INTO "snapshot"
  VALUES(2,2,'f','s','c','d','{}',1,100,'{}',0,1,NULL,NULL,NULL,0,'[]','{}',NULL,'{}',1.79605902871697282793e+09);
CREATE TABLE submission ( id INTEGER NOT NULL, shard_id INTEGER NOT NULL, night_id INTEGER NOT NULL,
  snapshot_id INTEGER NOT NULL, pilot BOOLEAN NOT NULL, account VARCHAR(100) NOT NULL, engine VARCHAR(20)
  NOT NULL, token VARCHAR(20) NOT NULL, requests INTEGER NOT NULL, usd_bound BIGINT NOT NULL, state
  VARCHAR(20) NOT NULL, owner VARCHAR(200) NOT NULL, fence INTEGER NOT NULL, lease_until DOUBLE NOT NULL,
  intent_at DOUBLE NOT NULL, window_from DOUBLE, mark_id INTEGER, candidates JSON, candidates_from DOUBLE,
  waits_for TEXT, error TEXT, batch_id VARCHAR(100), accepted_at DOUBLE, expires_at DOUBLE,
  cancel_requested_at DOUBLE, missing_since DOUBLE, ended_at DOUBLE, collected_at DOUBLE, input_tokens
  BIGINT NOT NULL, output_tokens BIGINT NOT NULL, cache_write_5m_tokens BIGINT NOT NULL,
  cache_write_1h_tokens BIGINT NOT NULL, cache_read_tokens BIGINT NOT NULL, cost_usd BIGINT,
  measured_answers BIGINT NOT NULL, measured_bytes BIGINT NOT NULL, measured_tokens BIGINT NOT NULL,
  first_attempts BIGINT NOT NULL, first_need_fix BIGINT NOT NULL, passing BIGINT DEFAULT '0' NOT NULL,
  unjudged BIGINT DEFAULT '0' NOT NULL, gone_requests BIGINT NOT NULL, gone_usd BIGINT NOT NULL,
  estimated_usd BIGINT DEFAULT '0' NOT NULL, duplicate BOOLEAN NOT NULL, unproven_usd BIGINT, stated_prices
  JSON, refusal JSON, caching VARCHAR(2), marked_models JSON, warms VARCHAR(32), cache_saved_usd BIGINT,
  collector VARCHAR(200), collect_until DOUBLE, downloads INTEGER NOT NULL, next_download_at DOUBLE,
  failed_downloads INTEGER DEFAULT '0' NOT NULL, published JSON, progress JSON, answer_files JSON, PRIMARY
  KEY (id), FOREIGN KEY(shard_id) REFERENCES shard (id), FOREIGN KEY(night_id) REFERENCES night (id),
  FOREIGN KEY(snapshot_id) REFERENCES snapshot (id), FOREIGN KEY(account) REFERENCES account (name), UNIQUE
  (token), UNIQUE (batch_id) );
INSERT INTO "submission"
  VALUES(1,1,1,1,0,'default','batch','pxbw4fqbbzduec77',10,1000000000000,'collected','me',1,1.7960590886238572598e+09,1.79605902862385725972e+09,NULL,NULL,NULL,NULL,NULL,NULL,'msgbatch_done',1000000.0,1086400.0,NULL,NULL,1.79605902868164062505e+09,1.79605902868892264366e+09,0,0,0,0,0,250000000000,0,0,0,0,0,0,0,0,0,0,0,0,'null',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,0,NULL,NULL,NULL);
INSERT INTO "submission"
  VALUES(2,2,2,2,0,'default','batch','pbsfp3hsaxsahmel',30,1000000000000,'accepted','me',1,1796059088.75211,1796059028.75211,NULL,NULL,NULL,NULL,NULL,NULL,'msgbatch_flies',1000000.0,1086400.0,NULL,NULL,NULL,NULL,0,0,0,0,0,NULL,0,0,0,0,0,0,0,0,0,0,0,NULL,'null',NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,NULL,0,NULL,NULL,NULL);
