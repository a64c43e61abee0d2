"""custody under a real systemd."""
