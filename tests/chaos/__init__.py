"""``make chaos``: what becomes of keys and users when what the daemon stands on fails."""
