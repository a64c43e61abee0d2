-- Puts down what a prune has left, in place of what the last one has; nothing where somebody was faster.
-- $1 number of the checkpoint, $2 hashes, $3 note, $4 the note that it replaces (NULL: there is none)
INSERT INTO auth.encryption_audit_prunes AS last (checkpoint, hashes, note)
VALUES ($1, $2, $3)
ON CONFLICT (is_last) DO UPDATE
SET checkpoint = EXCLUDED.checkpoint, hashes = EXCLUDED.hashes, note = EXCLUDED.note,
    made_at = clock_timestamp()
WHERE last.note = $4
