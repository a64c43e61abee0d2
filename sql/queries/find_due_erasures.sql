-- Of some erasures those that this database does not have, by their places. $1 ids of their audit rows, $2 user ids
SELECT place FROM auth.custody_find_due_erasures($1, $2)
