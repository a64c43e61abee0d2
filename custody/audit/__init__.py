"""The audit trail: one committed row per action."""
