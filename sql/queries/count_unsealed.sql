-- How many rows are not sealed: with a wrap, and in zero-knowledge mode; counted to 100,001 in all.
SELECT wraps, zero_knowledge FROM auth.custody_count_unsealed()
