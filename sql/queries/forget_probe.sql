-- Takes away the statement by which custody/db/pooler.py asks.
DEALLOCATE custody_probe
