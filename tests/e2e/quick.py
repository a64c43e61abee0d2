"""``custody serve`` that looks, tells, tries again and stops sooner: what tests only wait for."""

from types import ModuleType

from custody import supervisor
from custody.cli import main
from custody.http import site
from custody.ops import health, keks, report, rewrapping
from kek_backends import breaker, remote, vault_tokens

SHORT: tuple[tuple[ModuleType, str, float], ...] = (
    (site, "_FIRST_REQUEST_SECONDS", 0.05),
    (health, "_RETRY_SECONDS", 0.1),
    (health, "_AGAIN_SECONDS", 1.0),
    (keks, "_AGAIN_SECONDS", 0.1),
    (report, "_TELL_SECONDS", 0.1),
    (rewrapping, "_FIRST_SECONDS", 0.2),
    (supervisor, "_LOOK_SECONDS", 0.1),
    (supervisor, "_FIRST_PAUSE_SECONDS", 0.1),
    (breaker, "OPEN_SECONDS", 0.1),
    (remote, "_PAUSE_SECONDS", 0.05),
    (vault_tokens, "_AGAIN_SECONDS", 0.1),
    (vault_tokens, "_BETWEEN_LOGINS_SECONDS", 0.1),
)

if __name__ == "__main__":
    for module, name, seconds in SHORT:
        setattr(module, name, seconds)
    main()
