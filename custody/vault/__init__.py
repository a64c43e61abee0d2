"""The vault: one use case per route, and the rules of a user's master key."""
