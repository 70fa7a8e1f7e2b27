"""Which requests are open, and how they are cut into shards that will be one batch each."""
