"""KEKs at run time: loaded, proven, registered, watched, swapped."""
