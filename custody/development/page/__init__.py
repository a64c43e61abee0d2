"""The page of the first five minutes: a vault to be seen and touched, in development only."""

from custody.development.page.routes import FirstPage

__all__ = ["FirstPage"]
