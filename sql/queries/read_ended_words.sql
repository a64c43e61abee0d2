-- What data keys said of those that were ended, the oldest first.
SELECT kept.word
FROM auth.encryption_data_keys AS key, unnest(key.ended_words) WITH ORDINALITY AS kept (word, place)
ORDER BY key.id, kept.place
