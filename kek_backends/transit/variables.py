"""The variables of Vault's and OpenBao's command line: which are honoured, and which refused."""

from collections.abc import Callable, Mapping
from pathlib import Path

from kek_backends.errors import Misconfigured
from kek_backends.uri import KekUri

# OpenBao's own names win, as they do for its command line.
_PREFIXES = ("BAO_", "VAULT_")
_MAX_FILE_SIZE = 64 * 1024
_FALSE = {"0", "f", "false"}

# Of the command line: heeded here as there.
HONOURED = (
    "ADDR",
    "AGENT_ADDR",
    "CACERT",
    "CACERT_BYTES",
    "CAPATH",
    "CLIENT_CERT",
    "CLIENT_KEY",
    "CLIENT_TIMEOUT",
    "NAMESPACE",
    "TLS_SERVER_NAME",
    "TOKEN",
)
# They ask for what custody does not do; each with the reason and the cure.
REFUSED = {
    "CLIENT_CERT_BYTES": "write it to a file, and name that in VAULT_CLIENT_CERT",
    "CLIENT_KEY_BYTES": "a key is read from a file only: name one in VAULT_CLIENT_KEY",
    "HEADERS": "no headers of others are sent: unset it",
    "HTTP_PROXY": "a token goes through no proxy: unset it, or set VAULT_ADDR to what passes it on",
    "MAX_RETRIES": "a call has a deadline, and as many tries as fit: unset it",
    "MFA": "a daemon has no second factor: unset it, and take a login that needs none",
    "PROXY_ADDR": "a token goes through no proxy: unset it, or set VAULT_ADDR to what passes it on",
    "RATE_LIMIT": "calls are not held back here: unset it, and set a quota on the server",
    "SKIP_VERIFY": "the server's certificate is always verified: unset it, and set VAULT_CACERT to "
    "the CA of that certificate",
    "SRV_LOOKUP": "no SRV record is asked for: unset it, and write host and port into VAULT_ADDR",
    "TOKEN_PATH": "no token helper is asked: unset it, and set VAULT_TOKEN_FILE to that file",
    "WRAP_TTL": "a wrapped answer is of no use here: unset it",
}
# Of the screen, of servers and of agents: they change nothing of a request.
IGNORED = (
    "CLI_NO_COLOR",
    "CLUSTER_ADDR",
    "CONFIG_PATH",
    "DETAILED",
    "DISABLE_REDIRECTS",
    "FORMAT",
    "LOG_FORMAT",
    "LOG_LEVEL",
    "REDIRECT_ADDR",
    "SKIP_LOGGING_LEASE_EXPIRATIONS",
)


class Variables:
    """What the variables ``BAO_NAME``, or else ``VAULT_NAME``, say; an empty one is unset.

    Args:
        uri: of the KEK, for messages.
        environ: the variables of the process.

    Raises:
        Misconfigured: one is set that asks for what custody does not do.
    """

    def __init__(self, uri: KekUri, environ: Mapping[str, str]) -> None:
        self.uri = uri
        self._environ = environ
        for name, cure in REFUSED.items():
            value = self.get(name)
            if value and not (name in {"SKIP_VERIFY", "SRV_LOOKUP"} and value.lower() in _FALSE):
                raise self.refusal(f"{self.spelt(name)} is not honoured: {cure}")

    def get(self, name: str) -> str | None:
        """Return the value of a variable, by its name without the prefix."""
        return self._environ.get(self.spelt(name)) or None

    def spelt(self, name: str) -> str:
        """Return a variable's whole name: the one that is set."""
        ours = (prefix + name for prefix in _PREFIXES if self._environ.get(prefix + name))
        return next(ours, f"VAULT_{name}")

    def refusal(self, problem: str) -> Misconfigured:
        """Return the error for one that is wrong."""
        return Misconfigured(f"KEK {self.uri.text}: {problem}")

    def source(self, name: str) -> Callable[[], str] | None:
        """Return what reads a secret: a variable, or the file that another names; None: neither.

        Raises:
            Misconfigured: both are set.
        """
        value, in_file = self.get(name), self.get(f"{name}_FILE")
        if value and in_file:
            both = f"{self.spelt(name)} and {self.spelt(f'{name}_FILE')}"
            raise self.refusal(f"{both} are both set; unset one")
        if in_file:
            return self.file(f"{name}_FILE", in_file)
        return value.strip if value else None

    def file(self, name: str, path: str) -> Callable[[], str]:
        """Return what reads a file, anew each time.

        Args:
            name: of the variable that names it, for messages.
            path: of the file.
        """

        def read() -> str:
            at = f"{self.spelt(name)} names {path}"
            try:
                with Path(path).open("rb") as stream:
                    text = stream.read(_MAX_FILE_SIZE).decode("ascii").strip()
            except (OSError, UnicodeDecodeError) as error:
                raise self.refusal(f"{at}: {type(error).__name__}") from None
            if not text:
                raise self.refusal(f"{at}, which is empty")
            return text

        return read
