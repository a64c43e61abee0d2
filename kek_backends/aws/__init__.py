"""AWS KMS."""
