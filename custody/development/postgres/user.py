"""As whom and where the embedded PostgreSQL runs.

PostgreSQL refuses to run as root. Under root it runs as `postgres` or `nobody`, and that user must
reach the folder; whether it does is tried out, not guessed from mode bits.
Nothing that was there before is ever given another mode or owner.
"""

import hashlib
import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

FALLBACK: Final = Path("/var/lib/custody-dev")
# Fixed, so that neither PG* variables nor the daemon's secrets reach the server.
ENVIRONMENT: Final = {"PATH": os.defpath, "LC_ALL": "C"}
Variables: TypeAlias = Mapping[str, str]
_NO_MORE: Final[Variables] = MappingProxyType({})
_PROBE_SECONDS: Final = 30


class EmbeddedError(Exception):
    """The embedded PostgreSQL can't do what was asked; the message is one line with the cure."""


@dataclass(frozen=True, slots=True)
class ServerUser:
    """The operating system user of the server: someone else under root, else ourselves.

    Args:
        name: login name, for messages
        uid: user id to change to; None: stay who we are
        gid: group id to change to; None: stay
    """

    name: str
    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """Supplementary groups to run with: none of root's."""
        return None if self.uid is None else []

    def run(
        self, command: list[str], *, text: str = "", seconds: float, variables: Variables = _NO_MORE
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as this user and wait for its end, whatever its exit status.

        Args:
            command: absolute path and arguments; no secrets, everybody can see them
            text: its standard input
            seconds: how long it may take
            variables: what its environment has beside `ENVIRONMENT`

        Raises:
            EmbeddedError: it can't be run, or takes too long.
        """
        try:
            return subprocess.run(  # noqa: S603 - commands are ours, no shell, no user input
                command,
                check=False,
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                cwd="/",
                env={**ENVIRONMENT, **variables},
                start_new_session=True,
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
            )
        except subprocess.TimeoutExpired:
            raise EmbeddedError(
                f"{command[0]} took more than {seconds} s: check load and disk, then try again"
            ) from None
        except OSError as error:
            raise self._cannot_run(command, error) from None

    def spawn(
        self, command: list[str], *, stdin: int, output: int, inherited: tuple[int, ...] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a command as this user, in a session of its own, and return at once.

        Args:
            command: absolute path and arguments
            stdin: descriptor, or a constant of `subprocess`
            output: the same, for standard output and error
            inherited: other descriptors that it keeps

        Raises:
            EmbeddedError: it can't be run.
        """
        try:
            return subprocess.Popen(  # noqa: S603 - as above
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                pass_fds=inherited,
                cwd="/",
                env=ENVIRONMENT,
                start_new_session=True,
                user=self.uid,
                group=self.gid,
                extra_groups=self.groups,
            )
        except OSError as error:
            raise self._cannot_run(command, error) from None

    def _cannot_run(self, command: list[str], error: OSError) -> EmbeddedError:
        return EmbeddedError(
            f"{command[0]} can't be run as '{self.name}' ({error.strerror}): check its permissions"
        )

    def can(self, script: str, path: Path) -> bool:
        """Say whether a shell script with `path` as `$1` succeeds as this user."""
        try:
            command = ["/bin/sh", "-c", script, "sh", str(path)]
            return self.run(command, seconds=_PROBE_SECONDS).returncode == 0
        except EmbeddedError:
            return False

    def own(self, descriptor: int) -> None:
        """Give an open file or directory that we have just made to this user."""
        if self.uid is not None and self.gid is not None:
            os.fchown(descriptor, self.uid, self.gid)


def choose_user() -> ServerUser:
    """Choose whom the server runs as.

    Raises:
        EmbeddedError: we are root and may not become anyone else.
    """
    if os.geteuid() != 0:
        return ServerUser(name=f"uid {os.geteuid()}")
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        user = ServerUser(name, entry.pw_uid, entry.pw_gid)
        if user.uid != 0 and user.can("true", Path("/")):
            return user
    raise EmbeddedError(
        "PostgreSQL refuses to run as root, and neither 'postgres' nor 'nobody' can be used"
        " instead: run custody as an ordinary user"
    )


def claim_folder(wanted: Path, user: ServerUser) -> Path:
    """Make the folder, or the one under /var/lib/custody-dev when `user` can't reach it.

    Args:
        wanted: the folder asked for, absolute
        user: whom the server runs as

    Raises:
        EmbeddedError: neither can be used, or the folder is in others' hands.
        OSError: it can't be made.
    """
    folder = wanted
    if not _reaches(user, folder):
        digest = hashlib.sha256(os.fsencode(wanted)).hexdigest()[:8]
        folder = FALLBACK / f"{wanted.name}-{digest}"
        if not _reaches(user, folder):
            raise EmbeddedError(
                f"the server runs as '{user.name}', who can't enter {wanted} nor {FALLBACK}:"
                " use a folder below one that everyone may enter, or run as an ordinary user"
            )
    _make(folder, user)
    found = folder.stat()
    # Whoever can write here could put a link where we write as root, or read the passwords.
    if found.st_uid != os.geteuid() or found.st_mode & 0o002:
        raise EmbeddedError(
            f"{folder} belongs to user {found.st_uid} or is open to all: use a folder of your own"
        )
    return folder


def _reaches(user: ServerUser, folder: Path) -> bool:
    # What is missing will be made by us and can be entered; what is there must let the user in.
    there = next(path for path in (folder, *folder.parents) if path.exists())
    # A file in the way closes the path to us too: making the folder will say so.
    return user.uid is None or not there.is_dir() or user.can('cd -- "$1"', there)


def _make(folder: Path, user: ServerUser) -> None:
    """Make a folder and what is missing above it; one that exists is left as it is."""
    for path in reversed((folder, *folder.parents)):
        try:
            path.mkdir(mode=0o700 if path == folder else 0o777)
        except OSError:
            if path.is_dir():
                continue
            raise
        if user.uid is not None:
            # Others may pass through what we have made, whatever our umask, but not look around.
            path.chmod(0o711)
