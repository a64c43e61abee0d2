-- Whether auth.users is marked as custody's own; no row where the mark is lost.
SELECT ours FROM auth.custody_marks WHERE table_name = 'users'
