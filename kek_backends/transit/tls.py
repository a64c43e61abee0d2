"""The certificates of a connection to Vault or OpenBao: read again when their files change."""

import ssl
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from kek_backends.errors import Misconfigured
from kek_backends.transit.variables import Variables

# Of a file: its identity, time and size.
_Sign = tuple[int, int, int, int]


class Tls:
    """What certificates are trusted, and which one is shown.

    Args:
        variables: ``CACERT``, ``CACERT_BYTES`` or ``CAPATH``, the first of them that is set;
            ``CLIENT_CERT`` with ``CLIENT_KEY``; ``TLS_SERVER_NAME``.

    Raises:
        Misconfigured: one of ``CLIENT_CERT`` and ``CLIENT_KEY`` is missing.
    """

    def __init__(self, variables: Variables) -> None:
        self._variables = variables
        self._signs: dict[Path, _Sign] = {}
        self.server_name = variables.get("TLS_SERVER_NAME")
        if bool(variables.get("CLIENT_CERT")) != bool(variables.get("CLIENT_KEY")):
            raise variables.refusal("VAULT_CLIENT_CERT and VAULT_CLIENT_KEY go together; set both")

    def context(self) -> ssl.SSLContext:
        """Read all files, and return what connections are made with.

        Raises:
            Misconfigured: a file is missing or is none.
        """
        signs = self._look()
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_2
        self._trust(made)
        self._show(made)
        self._signs = signs
        return made

    @property
    def changed(self) -> bool:
        """Whether a file has changed since they were read."""
        return bool(self._signs) and self._look() != self._signs

    def _show(self, context: ssl.SSLContext) -> None:
        cert, key = self._path("CLIENT_CERT"), self._path("CLIENT_KEY")
        if cert is None or key is None:
            return
        try:
            # An empty password: else OpenSSL would ask for one on the terminal.
            context.load_cert_chain(cert, key, password="")
        except OSError as error:
            names = [f"{self._variables.spelt(name)}" for name in ("CLIENT_CERT", "CLIENT_KEY")]
            raise self._variables.refusal(
                f"{names[0]} names {cert}, and {names[1]} names {key}: "
                f"{_reason(error, 'no certificate and its key, in PEM and without a password')}"
            ) from None

    def _trust(self, context: ssl.SSLContext) -> None:
        if file := self._path("CACERT"):
            self._trust_file(context, "CACERT", file)
        elif text := self._variables.get("CACERT_BYTES"):
            try:
                context.load_verify_locations(cadata=text)
            except (ssl.SSLError, ValueError):
                at = self._variables.spelt("CACERT_BYTES")
                raise self._variables.refusal(f"{at} holds no certificate in PEM") from None
        elif folder := self._path("CAPATH"):
            for file in self._files_in(folder):
                self._trust_file(context, "CAPATH", file)
        else:
            context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)

    def _trust_file(self, context: ssl.SSLContext, name: str, file: Path) -> None:
        try:
            context.load_verify_locations(file)
        except OSError as error:
            raise self._wrong(name, file, error) from None

    def _files_in(self, folder: Path) -> list[Path]:
        try:
            # By any name, as the command line takes them; OpenSSL alone would want them hashed.
            files = sorted(path for path in folder.iterdir() if path.is_file())
        except OSError as error:
            raise self._wrong("CAPATH", folder, error) from None
        if not files:
            at = self._variables.spelt("CAPATH")
            raise self._variables.refusal(f"{at} names {folder}, which has no files")
        return files

    def _look(self) -> dict[Path, _Sign]:
        named = [self._path(name) for name in ("CACERT", "CLIENT_CERT", "CLIENT_KEY", "CAPATH")]
        seen: dict[Path, _Sign] = {}
        for path in named:
            if path is not None:
                try:
                    found = path.stat()
                except OSError:
                    continue  # reading it says why
                seen[path] = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
        return seen

    def _path(self, name: str) -> Path | None:
        value = self._variables.get(name)
        return Path(value) if value else None

    def _wrong(self, name: str, path: Path, error: OSError) -> Misconfigured:
        at = f"{self._variables.spelt(name)} names {path}"
        return self._variables.refusal(f"{at}: {_reason(error, 'no certificate in PEM')}")


def _reason(error: OSError, nonsense: str) -> str:
    # OpenSSL's errors are OSErrors, too.
    return nonsense if isinstance(error, ssl.SSLError) else error.strerror or "it can't be read"
