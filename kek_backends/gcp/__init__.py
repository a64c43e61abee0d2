"""Google Cloud KMS."""
