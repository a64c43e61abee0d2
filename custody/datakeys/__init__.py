"""Data keys: what seals rows and records, in the database only wrapped under a KEK."""
