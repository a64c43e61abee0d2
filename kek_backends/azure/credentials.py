"""Who asks Azure Key Vault: credentials of azure-identity, which keeps and renews the token."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from azure.core.pipeline.transport import RequestsTransport
from azure.identity import (
    ClientSecretCredential,
    ManagedIdentityCredential,
    WorkloadIdentityCredential,
)

from kek_backends.calls import ATTEMPT_SECONDS
from kek_backends.errors import Misconfigured
from kek_backends.uri import KekUri


class Credentials:
    """Give a token, and another one after it was refused.

    azure-identity keeps a token until it ends, which is an hour, and what was answered instead of
    one for a minute; nothing tells it to ask again. So credentials are made anew then. Those before
    are not closed: another thread may be asking them.

    Args:
        make: makes credentials of azure-identity; each keeps what it was given.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._made = make()
        self._given = ""

    def token(self, scope: str) -> str:
        """Return a token that is good for some minutes. Blocks.

        Args:
            scope: what it is for.

        Raises:
            Exception: of azure-identity.
        """
        made = self._made
        try:
            token: str = made.get_token(scope).token
        except Exception:
            # Another thread may have made others, that have a token by now.
            if self._made is made:
                self._made = self._make()
            raise
        self._given = token
        return token

    def drop(self, token: str) -> None:
        """Ask for another one the next time: this one was refused."""
        if token == self._given:
            self._made = self._make()

    def close(self) -> None:
        """Give back connections."""
        self._made.close()


def open_credentials(uri: KekUri, environ: Mapping[str, str]) -> Credentials:
    """Return the credentials that the environment names; else the machine's managed identity.

    The first of: workload identity, a client's secret, managed identity. None is tried after
    another failed: which identity asks is the operator's to say.

    Args:
        uri: of the KEK, for messages.
        environ: ``AZURE_TENANT_ID``, ``AZURE_CLIENT_ID``, ``AZURE_FEDERATED_TOKEN_FILE``,
            ``AZURE_CLIENT_SECRET``, ``AZURE_AUTHORITY_HOST``, ``REQUESTS_CA_BUNDLE``.

    Raises:
        Misconfigured: one of them is missing or wrong.
    """
    return Credentials(lambda: _identity(uri, environ))


def _identity(uri: KekUri, environ: Mapping[str, str]) -> Any:
    # They log what the server says, and a careless one repeats the secret that it was sent.
    for name in ("azure", "msal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    options: dict[str, Any] = {
        "transport": RequestsTransport(
            connection_timeout=ATTEMPT_SECONDS,
            read_timeout=ATTEMPT_SECONDS,
            connection_verify=environ.get("REQUESTS_CA_BUNDLE") or True,
            use_env_settings=False,
        ),
        "retry_total": 0,
    }
    client, tenant = environ.get("AZURE_CLIENT_ID"), environ.get("AZURE_TENANT_ID")
    token_file, secret = (
        environ.get("AZURE_FEDERATED_TOKEN_FILE"),
        environ.get("AZURE_CLIENT_SECRET"),
    )
    if token_file is None and secret is None:
        return ManagedIdentityCredential(client_id=client, **options)
    if not (client and tenant):
        raise Misconfigured(
            f"KEK {uri.text}: AZURE_CLIENT_ID and AZURE_TENANT_ID must be set beside "
            "AZURE_FEDERATED_TOKEN_FILE or AZURE_CLIENT_SECRET"
        )
    if authority := environ.get("AZURE_AUTHORITY_HOST"):
        options["authority"] = authority
    # Whether the authority is one of Microsoft's is for its certificate to show.
    options["disable_instance_discovery"] = True
    try:
        if token_file is not None:
            return WorkloadIdentityCredential(
                tenant_id=tenant, client_id=client, token_file_path=token_file, **options
            )
        return ClientSecretCredential(tenant, client, secret or "", **options)
    except ValueError:
        raise Misconfigured(
            f"KEK {uri.text}: AZURE_TENANT_ID, AZURE_CLIENT_ID or AZURE_AUTHORITY_HOST is no such "
            "thing"
        ) from None
