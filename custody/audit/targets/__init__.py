"""Where a follower sends the audit: a file, the journal, syslog."""
