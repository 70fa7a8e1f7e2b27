-- Dagster's database, beside the ledger's, which PostgreSQL's image makes; run at its first start.
CREATE DATABASE dagster;
