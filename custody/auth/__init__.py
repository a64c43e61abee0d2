"""Who is asking: bearer tokens, and the issuer's keys that they are checked with."""
