"""What only development and the tests use: an issuer of tokens, a private PostgreSQL."""
