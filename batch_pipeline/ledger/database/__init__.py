"""The ledger as a database: its tables, its migrations, how it is opened, read and written."""
