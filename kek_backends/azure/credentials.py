"""Who asks Azure Key Vault: credentials of azure-identity, which keeps and renews the token."""

from collections.abc import Mapping
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


def open_credentials(uri: KekUri, environ: Mapping[str, str]) -> Any:
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
