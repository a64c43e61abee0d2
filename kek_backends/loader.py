"""From a KEK URI to its backend, by entry point."""

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint, EntryPoints, entry_points

from kek_backends.base import KekBackend
from kek_backends.errors import Misconfigured
from kek_backends.foreign import ForeignKek
from kek_backends.keyring import Keyring
from kek_backends.uri import KekUri

ENTRY_POINT_GROUP = "custody.kek_backends"
_OURS = __name__.partition(".")[0]


def load(text: str, *, environ: Mapping[str, str], development: bool) -> KekBackend:
    """Build the backend that a KEK URI names; one of a third party is kept at arm's length.

    Args:
        text: the URI, for example ``env:MANA_AUTH_KEK``.
        environ: the variables that a backend may read.
        development: True only in development mode.

    Raises:
        Misconfigured: naming the URI and the cure.
    """
    return _load(text, environ=environ, development=development, apart=True)


def load_here(text: str, *, environ: Mapping[str, str], development: bool) -> KekBackend:
    """Build a backend as it is, whoever wrote it; see :func:`load`. For tests of it."""
    return _load(text, environ=environ, development=development, apart=False)


def _load(text: str, *, environ: Mapping[str, str], development: bool, apart: bool) -> KekBackend:
    uri = KekUri.parse(text)
    found = entry_points(group=ENTRY_POINT_GROUP)
    if uri.scheme not in found.names:
        known = ", ".join(sorted(found.names)) or "none: reinstall custody"
        raise Misconfigured(f"KEK {uri.text}: no backend is named {uri.scheme!r}; known: {known}")
    prefix, colon, _ = (uri.kek_id or "").partition(":")
    if colon and prefix in found.names and prefix != uri.scheme:
        # Rows under it would pass for those of another backend, which could not open them.
        raise Misconfigured(
            f"KEK {uri.text}: an id may not begin with {prefix}: as those of another backend do"
        )
    entry_point = _the_one(found.select(name=uri.scheme), uri)

    def make() -> KekBackend:
        # The module of a backend, and so its SDK, is loaded only when it is used: a host without
        # the SDK boots.
        backend = _class_at(entry_point, uri)
        return backend.from_uri(uri, environ=environ, development=development)

    try:
        if apart and _package(entry_point.module) != _OURS:
            return ForeignKek.built(uri, make)
        return make()
    except ImportError as error:
        if _package(error.name) == _OURS != _package(entry_point.module):
            raise Misconfigured(
                f"KEK {uri.text}: {entry_point.value} is written for another release of custody: "
                f"{error.name} lacks what it imports; see docs/how-to/third-party-backend.md"
            ) from None
        raise Misconfigured(
            f"KEK {uri.text}: the module {error.name} can't be imported; {_cure(entry_point)}"
        ) from None


def _the_one(found: EntryPoints, uri: KekUri) -> EntryPoint:
    """Return the entry point of a scheme: ours, whatever else has its name."""
    ours = [one for one in found if _package(one.module) == _OURS]
    others = sorted({one.value for one in found} - {one.value for one in ours})
    if not ours and len(others) > 1:
        raise Misconfigured(
            f"KEK {uri.text}: {' and '.join(others)} share the name {uri.scheme!r}: remove one"
        )
    return (ours or list(found))[0]


def _package(module: str | None) -> str:
    return (module or "").partition(".")[0]


def _cure(entry_point: EntryPoint) -> str:
    """Return how the package that has the backend gets whole.

    By its sources, never by a name: on an index that may be somebody else's.
    """
    if entry_point.dist is None:
        return "reinstall the package that has it"
    extras = f"[{','.join(entry_point.extras)}]" if entry_point.extras else ""
    return f"in the sources of {entry_point.dist.name} run: pip install '.{extras}'"


def _class_at(entry_point: EntryPoint, uri: KekUri) -> type[KekBackend]:
    try:
        backend = entry_point.load()
    except AttributeError:
        raise Misconfigured(
            f"KEK {uri.text}: there is no {entry_point.value}; reinstall the package that has it"
        ) from None
    if not (isinstance(backend, type) and issubclass(backend, KekBackend)):
        raise Misconfigured(f"KEK {uri.text}: {entry_point.value} is not a KekBackend")
    return backend


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
