"""KEK backends: where a key-encryption key lives, and how it wraps users' master keys.

This package never imports custody: a backend can be written, tested and shipped by anyone. It
starts at :class:`kek_backends.base.KekBackend`.
"""
