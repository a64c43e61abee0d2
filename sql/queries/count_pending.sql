-- How many rotations are pending, counted to 1,001, and since when the oldest is, in seconds since 1970.
SELECT rotations, extract(epoch FROM oldest)::float8 AS oldest FROM auth.custody_count_pending()
