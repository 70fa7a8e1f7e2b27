"""What people look at: a request before it is sent, and all that is known of one item."""
