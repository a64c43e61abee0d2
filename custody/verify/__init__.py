"""Verification: whether the rows of a database open with the configured KEKs; changes nothing."""
