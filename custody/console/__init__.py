"""The operators' page on the admin listener."""
