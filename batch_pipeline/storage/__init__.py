"""Files, on a local disk or in an object store: written whole or not at all, and durably."""
