"""A key of the transit engine: what the server says of it, and how its wraps look."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from kek_backends.base import FORMAT_CURRENT, FORMAT_USER, Wrap
from kek_backends.binding import Binding
from kek_backends.errors import KeyMissing, Misconfigured, Tampered, Transient
from kek_backends.uri import KekUri

_PATH = re.compile(r"(?P<mount>[A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.-]+)*)/(?P<key>[A-Za-z0-9_.-]+)")
_VERSION = re.compile(r"v([1-9][0-9]{0,8})")
_CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/]+={0,2}")
_MAX_CIPHERTEXT = 4096
_KEY_TYPES = ("aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")


@dataclass(frozen=True, slots=True)
class TransitKey:
    """What the server says of a key.

    Args:
        derived: whether the key of each wrap is derived from it: then ``context`` binds a wrap.
        latest: the version that encrypts.
        least: the least version that may still decrypt.
        created: for each version from ``least`` on, the second it was made in.
        details: all that the server said, for the doctor.
    """

    derived: bool
    latest: int
    least: int
    created: Mapping[int, int]
    details: Mapping[str, Any]

    def is_same(self, other: "TransitKey") -> bool:
        """Say whether both are of one key, and not of one that was made again under its name."""
        if self.derived != other.derived:
            return False
        if not self.created.keys() & other.created.keys():
            # All versions that we knew were retired since; a new key begins at its first one.
            return other.least > self.latest
        return all(
            other.created[version] == made
            for version, made in self.created.items()
            if version in other.created
        )

    def bound_by(self, binding: Binding, format_version: int = FORMAT_CURRENT) -> dict[str, str]:
        """Return the field that binds a wrap.

        Args:
            binding: what to.
            format_version: 3, or 2 for a wrap of before, which is bound to its user alone.
        """
        old = format_version == FORMAT_USER
        bound = binding.subject.encode() if old else binding.encode()
        # "context" on a key that is not derived would be ignored, with no error.
        name = "context" if self.derived else "associated_data"
        return {name: base64.b64encode(bound).decode()}


@dataclass(frozen=True, slots=True)
class KeyPath:
    """Where a key is on its server; knows the text form of its wraps.

    Args:
        uri: of the KEK, for messages.
        mount: of the transit engine.
        key: its name.
    """

    uri: KekUri
    mount: str
    key: str

    @classmethod
    def of(cls, uri: KekUri) -> Self:
        """Return the path that a URI names.

        Raises:
            Misconfigured: naming the URI and the cure.
        """
        path = _PATH.fullmatch(uri.path)
        if path is None:
            raise Misconfigured(
                f"KEK {uri.text}: write vault:MOUNT/KEY, for example vault:transit/custody"
            )
        return cls(uri, path["mount"], path["key"])

    @property
    def named(self) -> dict[str, str]:
        """The arguments that name the key to hvac."""
        return {"name": self.key, "mount_point": self.mount}

    def stamp(self, version: int) -> str:
        """Return the kek_id of a version."""
        return f"vault:{self.mount}/{self.key}:v{version}"

    def version(self, kek_id: str) -> int | None:
        """Return the version that a kek_id names; None where it is of another key."""
        prefix = f"vault:{self.mount}/{self.key}:"
        found = _VERSION.fullmatch(kek_id.removeprefix(prefix))
        return int(found[1]) if found and kek_id.startswith(prefix) else None

    def state(self, found: Mapping[str, Any]) -> TransitKey:
        """Return what the server said of the key.

        Raises:
            Misconfigured: it can't wrap.
            KeyMissing: it is not to be used for now.
        """
        if found["type"] not in _KEY_TYPES:
            raise Misconfigured(
                f"KEK {self.uri.text}: a key of type {found['type']} can't wrap; make one with: "
                f"bao write -f {self.mount}/keys/{self.key} derived=true"
            )
        if found.get("soft_deleted"):
            raise KeyMissing(
                f"{self.uri.text}: the key is soft-deleted; run: "
                f"bao write -f {self.mount}/keys/{self.key}/soft-delete-restore"
            )
        return TransitKey(
            derived=bool(found["derived"]),
            latest=int(found["latest_version"]),
            least=int(found["min_decryption_version"]),
            created={int(version): int(made) for version, made in found["keys"].items()},
            details=found,
        )

    def check(self, wrap: Wrap) -> None:
        """Refuse what can't be one of our wraps before anything is asked.

        Raises:
            Tampered: it is none.
        """
        version = self.version(wrap.kek_id)
        shape = (
            _CIPHERTEXT.fullmatch(wrap.wrapped_mk)
            if len(wrap.wrapped_mk) <= _MAX_CIPHERTEXT
            else None
        )
        known_format = wrap.format_version in (FORMAT_USER, FORMAT_CURRENT)
        if not known_format or wrap.wrap_iv != "" or shape is None:
            raise Tampered(f"{self.uri.text}: the row's columns hold no wrap of a transit key")
        if int(shape[1]) != version:
            raise Tampered(f"{self.uri.text}: the wrap is of another version than its row says")

    def wrap_of(self, answer: Mapping[str, Any]) -> Wrap:
        """Return the wrap in what the server answers for one item.

        Raises:
            Transient: there is none.
        """
        ciphertext = answer["ciphertext"]
        shape = _CIPHERTEXT.fullmatch(ciphertext)
        if shape is None or int(shape[1]) != answer.get("key_version", int(shape[1])):
            raise Transient(f"{self.uri.text}: the server answered with something that is no wrap")
        return Wrap(ciphertext, "", FORMAT_CURRENT, self.stamp(int(shape[1])))
