"""TLS to a server, as libpq's parameters say it."""

import contextlib
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from custody.db.dsn import Tls
from custody.db.parameters import BadUrl

_VERIFIED = ("verify-ca", "verify-full")
# PostgreSQL 17 wants it where TLS comes at once.
_PROTOCOL = "postgresql"


class _Context(ssl.SSLContext):
    """Checks a certificate against the host's name, whatever address the connection goes to."""

    host: str

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Wrap a connection, as the base class does."""
        name = self.host if server_hostname else server_hostname
        return super().wrap_bio(incoming, outgoing, server_side, name, session)


def contexts(tls: Tls, host: str) -> tuple[ssl.SSLContext | None, ...]:
    """Return the ways to try, in order: with TLS, or (None) without.

    Files are read at each call: a certificate that was renewed needs no restart.

    Args:
        tls: what the URL says.
        host: the name that the certificate must have, where names are checked.

    Raises:
        BadUrl: a file is missing, or not what it should be.
    """
    match tls.mode:
        case "disable":
            return (None,)
        case "allow":
            return None, _context(tls, host)
        case "prefer":
            return _context(tls, host), None
        case _:
            return (_context(tls, host),)


def file_of_home(*parts: str) -> str | None:
    """Return a file below HOME, if it is there and can be read."""
    with contextlib.suppress(OSError, RuntimeError):
        path = Path.home().joinpath(*parts)
        if path.is_file() and os.access(path, os.R_OK):
            return str(path)
    return None


def _context(tls: Tls, host: str) -> ssl.SSLContext:
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.host = host
    context.set_alpn_protocols([_PROTOCOL])
    context.check_hostname = tls.mode == "verify-full"
    if tls.least is not None:
        context.minimum_version = _version(tls.least)
    if tls.most is not None:
        context.maximum_version = _version(tls.most)
    _trust(context, tls)
    _show_certificate(context, tls)
    return context


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


def _trust(context: ssl.SSLContext, tls: Tls) -> None:
    """Say whose certificates are accepted."""
    root = tls.root_cert or file_of_home(".postgresql", "root.crt")
    if tls.root_cert == "system":
        context.load_default_certs()
    elif root is not None and tls.mode in {"require", *_VERIFIED}:
        _load(lambda: context.load_verify_locations(cafile=root), f"sslrootcert names {root}")
    elif tls.mode in _VERIFIED:
        raise BadUrl(
            f"sslmode={tls.mode} needs the certificate of the CA: add sslrootcert=/path/to/it, "
            "or sslrootcert=system for those of the operating system"
        )
    else:
        context.verify_mode = ssl.CERT_NONE
        return
    crl = tls.crl or file_of_home(".postgresql", "root.crl")
    if crl is not None:
        _load(lambda: context.load_verify_locations(cafile=crl), f"sslcrl names {crl}")
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN


def _show_certificate(context: ssl.SSLContext, tls: Tls) -> None:
    """Load our own certificate, where there is one."""
    cert = tls.cert or file_of_home(".postgresql", "postgresql.crt")
    if cert is None:
        return
    key = tls.key or file_of_home(".postgresql", "postgresql.key")
    # Without one, OpenSSL would ask on the terminal.
    password = tls.password or ""
    _load(
        lambda: context.load_cert_chain(cert, key, lambda: password),
        f"sslcert names {cert}, with the key in {key or 'the same file'}",
        "not such PEM files, not a pair, or encrypted with another password than sslpassword",
    )


def _load(load: Callable[[], None], what: str, wrong: str = "not such a PEM file") -> None:
    try:
        load()
    except OSError as error:
        # An SSLError is one: of a file that is there.
        reason = wrong if isinstance(error, ssl.SSLError) else error.strerror
        raise BadUrl(f"{what}: {reason}") from None
    except ValueError:  # a password of more than 1024 characters
        raise BadUrl(f"{what}: sslpassword is too long") from None
