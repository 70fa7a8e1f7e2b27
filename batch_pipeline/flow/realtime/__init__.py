"""The second engine: shards that are sent call by call through the Messages API."""
