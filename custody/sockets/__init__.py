"""What the daemon listens on: addresses, sockets of its own or handed over, their TLS."""
