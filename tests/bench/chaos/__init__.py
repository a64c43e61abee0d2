"""``make chaos-callers``: what honest users notice while others attack the daemon."""
