"""Re-wraps: the worker, the command, and users beside them."""
