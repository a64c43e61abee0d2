"""A file that a follower adds to, and that others may rotate meanwhile."""

from collections.abc import Sequence
from pathlib import Path

from custody.audit.export import Format, Line, Place, text_of
from custody.audit.export_file import ExportFile, FileLost, UnfitFile
from custody.audit.targets.target import TargetDown, TargetUnfit

# The group may read it: who sends it on.
_MODE = 0o640


class FileTarget:
    """A file of lines: what it holds says how far it is.

    Args:
        path: its name.
        format_: what its lines are made of.
    """

    def __init__(self, path: Path, format_: Format) -> None:
        self._path, self._format = path, format_
        self._file: ExportFile | None = None

    async def open(self) -> Place | None:
        """Open it; see :class:`custody.audit.targets.target.Target`."""
        self.close()
        try:
            self._file = ExportFile.open(self._path, self._format, _MODE)
        except UnfitFile as error:
            raise TargetUnfit(str(error)) from None
        return self._file.place

    async def send(self, lines: Sequence[Line]) -> None:
        """Add lines, and see them on disk."""
        text = text_of(lines)
        while True:
            try:
                self._add(text)
            except FileLost as error:
                raise TargetDown(str(error)) from None
            # Under its name still, so whoever moves it away from now on has the lines. What was
            # moved before may be compressed already, without them.
            if not self._opened.was_moved:
                return
            if await self.open() is not None:
                raise TargetDown(f"{self._path} was moved away, and another file is in its place")

    def check(self) -> None:
        """Look whether it was cut: what was added between the copy and the cut is in neither."""
        if self._opened.was_cut:
            raise TargetDown(f"{self._path} was cut by somebody else")

    def close(self) -> None:
        """Close it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, text: str) -> None:
        self.check()
        self._opened.write(text)
        self._opened.sync()
        if self._opened.was_cut:
            # Just now. What is in it would say that all before is out.
            self._opened.take_back(text)
            self.check()

    @property
    def _opened(self) -> ExportFile:
        if self._file is None:
            raise TargetDown(f"{self._path} is not open")
        return self._file
