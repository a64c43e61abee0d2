"""The key custody daemon."""
