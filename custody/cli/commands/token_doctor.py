"""custody doctor --token."""

import os

from custody.cli.commands.doctor import show
from custody.ops.token_doctor import examine_token


def doctor(token: bytes, *, as_json: bool) -> int:
    """Say of a token what the daemon would say of it, claim by claim."""
    return show(examine_token(os.environ, token), as_json=as_json)
