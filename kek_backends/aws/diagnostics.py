"""What ``custody doctor`` says of a key of AWS KMS."""

from collections.abc import Awaitable, Callable

from kek_backends.aws.errors import CredentialsRefused
from kek_backends.errors import Denied, KekError, Transient
from kek_backends.findings import Finding, Verdict


async def tried(rights: str, work: Callable[[], Awaitable[object]]) -> list[Finding]:
    """Try something, and say why it failed if it did.

    Args:
        rights: the permissions it needs.
        work: makes the call.
    """
    try:
        await work()
    except CredentialsRefused as error:
        return [Finding(Verdict.FINDING, str(error))]
    except Denied as error:
        return [Finding(Verdict.FINDING, f"{error}; grant {rights} on the key")]
    except Transient as error:
        return [Finding(Verdict.DOWN, str(error))]
    except KekError as error:
        return [Finding(Verdict.FINDING, str(error))]
    return []


def good(kek_id: str | None, *, active: bool) -> Finding:
    """Say that all is well.

    Args:
        kek_id: the stamp.
        active: whether the key wraps.
    """
    use = "wraps and unwraps" if active else "ready to unwrap"
    return Finding(Verdict.OK, f"{use}; kek_id {kek_id}")
