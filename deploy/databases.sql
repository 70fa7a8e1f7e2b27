-- Two databases of one server, made when it starts for the first time: Dagster's and the ledger's.
CREATE DATABASE dagster;
CREATE DATABASE batch_pipeline;
