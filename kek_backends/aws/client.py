"""The SDK's client of AWS KMS: made at the first call, in a thread, with bounded answers."""

import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from kek_backends import bounded_http
from kek_backends.aws.names import is_region
from kek_backends.errors import Misconfigured, Transient
from kek_backends.uri import KekUri

_KINDS = {
    "use_fips_endpoint": "AWS_USE_FIPS_ENDPOINT",
    "use_dualstack_endpoint": "AWS_USE_DUALSTACK_ENDPOINT",
}
_ENDPOINTS = ("AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL")


def region_from(uri: KekUri, environ: Mapping[str, str], profiles: str | None) -> str:
    """Return the region to ask, where the URI names none.

    Args:
        uri: for the message.
        environ: the variables of the process.
        profiles: what the profile in use says, if anything.

    Raises:
        Misconfigured: there is none, or it has no region's form (it becomes part of a host name).
    """
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or profiles
    if not region:
        raise Misconfigured(
            f"KEK {uri.text}: no region: set AWS_REGION, or write the ARN of the key in the URI"
        )
    if not is_region(region):
        raise Misconfigured(
            f"KEK {uri.text}: {region!r} is not a region: set AWS_REGION, for example eu-central-1"
        )
    return region


def endpoint_from(uri: KekUri, environ: Mapping[str, str], session: Any) -> str | None:
    """Return the URL of another endpoint than the region's own, or None.

    What a file of the SDK's says is read here as well: nothing is asked that was not looked at.

    Args:
        uri: for the message.
        environ: the variables of the process, which win.
        session: the SDK's, with the profile in use.

    Raises:
        Misconfigured: it is no URL, or carries a password.
    """
    name = next((name for name in _ENDPOINTS if environ.get(name)), None)
    url = environ[name] if name else _endpoint_of_profile(session)
    if not url:
        return None
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and not parts.username
    except ValueError:
        good = False
    if not good:
        # The value stays out of the message: it may hold a password.
        raise Misconfigured(
            f"KEK {uri.text}: {name or 'endpoint_url of the AWS profile'} is not a URL: write "
            "https://HOST, or unset it"
        )
    return url


def choose_kind_of_endpoint(
    uri: KekUri, environ: Mapping[str, str], session: Any, endpoint: str | None
) -> None:
    """Have the session ask the FIPS or dual-stack endpoint of the region, where that is set.

    Args:
        uri: for the message.
        environ: the variables of the process, which win over the profile.
        session: the SDK's.
        endpoint: URL of another endpoint than the region's own, or None.

    Raises:
        Misconfigured: what is set is neither true nor false, which the SDK would take for false; or
            there is an endpoint as well.
    """
    for variable, name in _KINDS.items():
        if text := (environ.get(name) or "").lower():
            if text not in ("true", "false"):
                raise Misconfigured(f"KEK {uri.text}: {name} must be true or false")
            session.set_config_variable(variable, text == "true")
        if endpoint is not None and session.get_config_variable(variable):
            raise Misconfigured(
                f"KEK {uri.text}: {name} and an endpoint of your own (AWS_ENDPOINT_URL_KMS, "
                "AWS_ENDPOINT_URL or endpoint_url) do not go together: unset one"
            )


def _endpoint_of_profile(session: Any) -> str | None:
    """Return what the profile in use says: for KMS, or for all services (SDKs' endpoint_url)."""
    if session.get_config_variable("ignore_configured_endpoint_urls"):
        return None
    profile = session.get_scoped_config()
    services = session.full_config.get("services", {}).get(profile.get("services"), {})
    of_kms = services.get("kms")
    found: str | None = of_kms.get("endpoint_url") if isinstance(of_kms, dict) else None
    return found or profile.get("endpoint_url")


class AwsClient:
    """One client for all threads; making it takes a tenth of a second, and may ask for credentials.

    Args:
        uri: for messages.
        session: the SDK's session. All clients it makes read bounded answers, those that fetch
            credentials too.
        region: the region to ask.
        endpoint: URL of another endpoint than the region's own, or None.
        give_up_after: seconds to wait for another thread that makes the client.
    """

    def __init__(
        self, uri: KekUri, session: Any, *, region: str, endpoint: str | None, give_up_after: float
    ) -> None:
        self.region = region
        self.endpoint = endpoint
        self._uri = uri
        self._session = session
        self._give_up_after = give_up_after
        self._making = threading.Lock()
        self._made: Any = None
        _bound_clients_of(session)

    def get(self) -> Any:
        """Return the client. Blocks.

        Raises:
            Misconfigured: there are no credentials. That is not remembered: they may come.
            Transient: another thread is still waiting for credentials.
        """
        if self._made is not None:
            return self._made
        if not self._making.acquire(timeout=self._give_up_after):
            raise Transient(f"{self._uri.text}: still waiting for credentials")
        try:
            if self._made is None:
                # A client made without credentials would never look for them again.
                if self._session.get_credentials() is None:
                    raise Misconfigured(
                        f"KEK {self._uri.text}: no AWS credentials; give the host a role, or set "
                        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    )
                self._made = self._session.create_client(
                    "kms", region_name=self.region, endpoint_url=self.endpoint
                )
            return self._made
        finally:
            self._making.release()

    def close(self) -> None:
        """Close the connections that no thread uses now; one in use closes when it is put back."""
        if self._made is not None:
            self._made.close()


def _bound_clients_of(session: Any) -> None:
    create = session.create_client

    def create_bounded(*args: Any, **named: Any) -> Any:
        client = create(*args, **named)
        _bound(client._endpoint.http_session)  # noqa: SLF001
        return client

    session.create_client = create_bounded
    for provider in session.get_component("credential_provider").providers:
        # Of containers and instances, which are asked without a client.
        fetcher = getattr(provider, "_fetcher", None) or getattr(provider, "_role_fetcher", None)
        if (http := getattr(fetcher, "_session", None)) is not None:
            _bound(http)


def _bound(http: Any) -> None:
    # Private names of botocore: tests/kek/test_aws_kms_faults.py and test_aws_kms_credentials.py
    # send bodies and headers without an end, directly and through a proxy, and fail when this no
    # longer bounds them.
    http._pool_classes_by_scheme = bounded_http.bind(http._manager)  # noqa: SLF001
