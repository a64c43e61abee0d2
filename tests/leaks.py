"""The search for secrets in logs: tests remember each secret they meet, and the end of the run
looks for all of them in every log that any daemon or PostgreSQL of the run has written."""

import base64
import binascii
import os
import tempfile
from pathlib import Path

_VARIABLE = "CUSTODY_TEST_LOGS"

# One folder for the whole run: workers inherit the variable from the process that starts them.
if _VARIABLE not in os.environ:
    os.environ[_VARIABLE] = tempfile.mkdtemp(prefix="custody-test-logs-")
LOGS = Path(os.environ[_VARIABLE])
_SECRETS = LOGS / f"{os.getpid()}.secrets"
_SHORTEST = 16


def remember(secret: str) -> str:
    """Note a secret that must not be found in any log, and return it."""
    if len(secret) >= _SHORTEST:
        with _SECRETS.open("a", encoding="utf-8") as stream:
            stream.write(secret.replace("\n", " ") + "\n")
    return secret


def search() -> tuple[int, int, list[str]]:
    """Search all logs of the run.

    Returns:
        How many secrets, how many bytes of logs, and where something was found (never what).
    """
    secrets = set()
    for file in LOGS.glob("*.secrets"):
        for line in file.read_text("utf-8").splitlines():
            secrets |= forms(line)
    # Looked up by how they begin: each of them in each line would take hours.
    beginning: dict[str, list[str]] = {}
    for secret in secrets:
        beginning.setdefault(secret[:_SHORTEST], []).append(secret)
    size, found = 0, []
    for file in LOGS.glob("*.log"):
        for number, line in enumerate(file.read_text("utf-8", "replace").splitlines(), 1):
            size += len(line)
            if _has_any(line, beginning):
                found.append(f"{file.name}:{number}")
    return len(secrets), size, found


def _has_any(line: str, beginning: dict[str, list[str]]) -> bool:
    return any(
        line.startswith(tuple(beginning[line[at : at + _SHORTEST]]), at)
        for at in range(len(line) - _SHORTEST + 1)
        if line[at : at + _SHORTEST] in beginning
    )


def forms(secret: str) -> set[str]:
    """Return how a secret may be written: as it is and, where that is base64, in other ways."""
    forms = {secret}
    try:
        raw = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return forms
    return forms | {raw.hex(), base64.urlsafe_b64encode(raw).decode(), repr(raw)[2:-1]}
