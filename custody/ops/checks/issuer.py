"""The issuer's keys, and its clock."""

from functools import partial

from custody.auth.jwk import NO_KEY, JwksError, VerificationKey, doubled_kids
from custody.auth.jwks import document_from, keys_of
from custody.auth.sources import Source, file_source
from custody.ops import preflight
from custody.ops.checks.clock import examine_issuer_clock
from custody.settings import Settings
from kek_backends.findings import Finding, Verdict


async def examine_issuer(
    settings: Settings,
) -> tuple[list[Finding], tuple[VerificationKey, ...] | None]:
    """Examine the issuer's keys; return what was found, and the keys where a JWKS was had.

    Args:
        settings: where they are: a file or a URL is set, and may be asked.
    """
    headers: dict[str, str] = {}
    fetch, source = _issuer_keys(settings, headers)
    # A file's faults stop the daemon; an issuer may be down for a while.
    prefix = "CUSTODY_JWKS_FILE: " if settings.jwks_file else ""
    try:
        document = await document_from(fetch, source)
    except JwksError as error:
        verdict = Verdict.FINDING if settings.jwks_file else Verdict.DOWN
        return [Finding(verdict, f"{prefix}{error}", "jwks")], None
    try:
        keys = keys_of(document, source)
    except JwksError as error:
        return [Finding(Verdict.FINDING, f"{prefix}{error}", "jwks")], None
    finding = _of_keys(document, keys, source, prefix)
    if settings.jwks_file:
        return [finding], keys
    return [finding, examine_issuer_clock(headers)], keys


def _of_keys(
    document: bytes, keys: tuple[VerificationKey, ...], source: str, prefix: str
) -> Finding:
    if not keys:
        return Finding(Verdict.FINDING, f"{prefix}JWKS {source} {NO_KEY}", "jwks")
    if doubled := doubled_kids(document):
        message = (
            f"two different keys of {source} have one kid ({', '.join(doubled)}): neither is used, "
            "and their tokens are refused; have the issuer give each key a kid of its own"
        )
        return Finding(Verdict.FINDING, message, "jwks")
    return Finding(Verdict.OK, f"{len(keys)} usable key{'s' * (len(keys) != 1)}", "jwks")


def _issuer_keys(settings: Settings, headers: dict[str, str]) -> Source:
    if settings.jwks_file is not None:
        return file_source(settings.jwks_file), str(settings.jwks_file)
    # A JWKS in a file needs no HTTP client, and no command waits for the import of one.
    from custody.auth.http_source import fetch_once, name_of  # noqa: PLC0415

    url = preflight.jwks_url(settings)
    return partial(fetch_once, url, headers), name_of(url)
