-- The tables of schema version 1, and a night of it with a batch in flight.
CREATE TABLE account (
    name VARCHAR(100) NOT NULL,
    simulated BOOLEAN NOT NULL,
    paused_reason TEXT,
    wait_until DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (name)
);
CREATE TABLE schema_version (
    version INTEGER NOT NULL
);
CREATE TABLE night (
    id INTEGER NOT NULL,
    job VARCHAR(200) NOT NULL,
    partition VARCHAR(200) NOT NULL,
    account VARCHAR(100) NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    snapshot_id INTEGER,
    open_requests BIGINT NOT NULL,
    revision INTEGER NOT NULL,
    published BOOLEAN NOT NULL,
    rebuilding BOOLEAN NOT NULL,
    held_at DOUBLE PRECISION,
    refused TEXT,
    wanted_room_at DOUBLE PRECISION NOT NULL,
    pilot JSON,
    completed_at DOUBLE PRECISION,
    PRIMARY KEY (id),
    UNIQUE (job, partition, account),
    FOREIGN KEY(account) REFERENCES account (name)
);
CREATE TABLE approval (
    id INTEGER NOT NULL,
    night_id INTEGER NOT NULL,
    gate VARCHAR(20) NOT NULL,
    declaration_hash VARCHAR(64) NOT NULL,
    content_hash VARCHAR(64) NOT NULL,
    reason TEXT NOT NULL,
    approved_by VARCHAR(200) NOT NULL,
    approved_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(night_id) REFERENCES night (id)
);
CREATE INDEX approval_by_night ON approval (night_id);
CREATE TABLE snapshot (
    id INTEGER NOT NULL,
    night_id INTEGER NOT NULL,
    folder TEXT NOT NULL,
    signature VARCHAR(64) NOT NULL,
    content_hash VARCHAR(64) NOT NULL,
    declaration_hash VARCHAR(64) NOT NULL,
    declaration JSON NOT NULL,
    parts INTEGER NOT NULL,
    items BIGINT NOT NULL,
    set_aside JSON NOT NULL,
    duplicates BIGINT NOT NULL,
    request_bytes BIGINT NOT NULL,
    settled JSON NOT NULL,
    taken_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(night_id) REFERENCES night (id)
);
CREATE TABLE kept (
    snapshot_id INTEGER NOT NULL,
    units BIGINT NOT NULL,
    PRIMARY KEY (snapshot_id),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
);
CREATE TABLE shard (
    id INTEGER NOT NULL,
    night_id INTEGER NOT NULL,
    snapshot_id INTEGER NOT NULL,
    engine VARCHAR(20) NOT NULL,
    pilot BOOLEAN NOT NULL,
    manifest TEXT NOT NULL,
    requests INTEGER NOT NULL,
    bytes BIGINT NOT NULL,
    usd_bound BIGINT NOT NULL,
    state VARCHAR(20) NOT NULL,
    created_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(night_id) REFERENCES night (id),
    FOREIGN KEY(snapshot_id) REFERENCES snapshot (id)
);
CREATE INDEX shard_by_night ON shard (night_id, state);
CREATE TABLE submission (
    id INTEGER NOT NULL,
    shard_id INTEGER NOT NULL,
    night_id INTEGER NOT NULL,
    account VARCHAR(100) NOT NULL,
    engine VARCHAR(20) NOT NULL,
    token VARCHAR(20) NOT NULL,
    requests INTEGER NOT NULL,
    usd_bound BIGINT NOT NULL,
    state VARCHAR(20) NOT NULL,
    owner VARCHAR(200) NOT NULL,
    fence INTEGER NOT NULL,
    lease_until DOUBLE PRECISION NOT NULL,
    intent_at DOUBLE PRECISION NOT NULL,
    window_from DOUBLE PRECISION,
    error TEXT,
    batch_id VARCHAR(100),
    accepted_at DOUBLE PRECISION,
    expires_at DOUBLE PRECISION,
    cancel_requested_at DOUBLE PRECISION,
    ended_at DOUBLE PRECISION,
    collected_at DOUBLE PRECISION,
    summary JSON,
    cost_usd BIGINT,
    PRIMARY KEY (id),
    FOREIGN KEY(shard_id) REFERENCES shard (id),
    FOREIGN KEY(night_id) REFERENCES night (id),
    FOREIGN KEY(account) REFERENCES account (name),
    UNIQUE (token),
    UNIQUE (batch_id)
);
CREATE INDEX submission_by_account ON submission (account, state);
CREATE INDEX submission_by_night ON submission (night_id, state);
CREATE INDEX submission_by_shard ON submission (shard_id);
CREATE TABLE redriven (
    submission_id INTEGER NOT NULL,
    status VARCHAR(20) NOT NULL,
    redriven_at DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (submission_id, status),
    FOREIGN KEY(submission_id) REFERENCES submission (id)
);
CREATE TABLE seen (
    account VARCHAR(100) NOT NULL,
    batch_id VARCHAR(100) NOT NULL,
    submission_id INTEGER,
    PRIMARY KEY (account, batch_id),
    FOREIGN KEY(account) REFERENCES account (name),
    FOREIGN KEY(submission_id) REFERENCES submission (id)
);
INSERT INTO schema_version VALUES (1);
INSERT INTO account VALUES ('default', false, NULL, 0.0);
INSERT INTO night VALUES (
    1, 'job', '2026-01-02', 'default', 1000000.0, 1, 7, 3, true, false, NULL, NULL, 0.0, NULL, NULL
);
INSERT INTO snapshot VALUES (
    1, 1, 'f', 's', 'c', 'd', '{}', 1, 100, '{}', 0, 1, '{}', 1000000.0
);
INSERT INTO shard VALUES (
    1, 1, 1, 'batch', false, 'm', 93, 1, 1500000000000, 'held', 1000000.0
);
INSERT INTO submission VALUES (
    1, 1, 1, 'default', 'batch', 'aaaaaaaaaaaaaaaa', 93, 1500000000000, 'accepted', 'me', 1,
    1000060.0, 1000000.0, NULL, NULL, 'batch_1', 1000001.0, 1086401.0, NULL, NULL, NULL, NULL, NULL
);
INSERT INTO seen VALUES ('default', 'batch_1', 1);
