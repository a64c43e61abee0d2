"""The checks of :mod:`kek_backends.testing`, by what they look at."""
