"""Re-wraps: every row to the active KEK, while users keep working."""
