"""Operation: logs, metrics, health, process hygiene, the doctor."""
