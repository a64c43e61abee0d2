"""From a KEK URI to its backend, by entry point."""

from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points

from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri

ENTRY_POINT_GROUP = "custody.kek_backends"


def load(text: str, *, environ: Mapping[str, str], development: bool) -> KekBackend:
    """Build the backend that a KEK URI names.

    Args:
        text: the URI, for example ``env:MANA_AUTH_KEK``.
        environ: the variables that a backend may read.
        development: True only in development mode.

    Raises:
        Misconfigured: naming the URI and the cure.
    """
    uri = KekUri.parse(text)
    found = entry_points(group=ENTRY_POINT_GROUP)
    if uri.scheme not in found.names:
        known = ", ".join(sorted(found.names)) or "none: reinstall custody"
        raise Misconfigured(f"KEK {uri.text}: no backend is named {uri.scheme!r}; known: {known}")
    try:
        backend = found[uri.scheme].load()
    except (ImportError, AttributeError) as error:
        raise Misconfigured(
            f"KEK {uri.text}: {found[uri.scheme].value} can't be loaded ({type(error).__name__}); "
            "reinstall the package that has it, with what it needs"
        ) from None
    if not (isinstance(backend, type) and issubclass(backend, KekBackend)):
        raise Misconfigured(f"KEK {uri.text}: {found[uri.scheme].value} is not a KekBackend")
    return backend.from_uri(uri, environ=environ, development=development)


def load_keyring(
    active: str, old: Sequence[str], *, environ: Mapping[str, str], development: bool
) -> Keyring:
    """Build the keyring that KEK URIs name.

    Args:
        active: URI of the KEK that wraps.
        old: URIs of decrypt-only KEKs.
        environ: the variables that backends may read.
        development: True only in development mode.

    Raises:
        Misconfigured: naming the URI and the cure.
    """
    first, *others = (load(uri, environ=environ, development=development) for uri in (active, *old))
    return Keyring(first, others)
