"""What the tests of KEKs share."""

import base64
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest

from kek_backends import calls
from kek_backends.aws.kek import AwsKmsKek
from kek_backends.base import KekBackend, Wrap
from kek_backends.errors import KekError, Misconfigured, Transient
from kek_backends.loader import load
from kek_backends.remote import RemoteKek
from kek_backends.transit.kek import TransitKek
from tests.bao_server import Bao
from tests.bindings import of

KEY = b"k" * 32


def refusal(uri: str, development: bool = False, /, **environ: str) -> str:
    """Return why there is no KEK of that URI: one line that names it, and nothing below it."""
    with pytest.raises(Misconfigured) as caught:
        load(uri, environ=environ, development=development)
    message = str(caught.value)
    assert message.startswith(f"KEK {uri}: ")
    assert len(message.splitlines()) == 1
    assert caught.value.__cause__ is None
    if (context := caught.value.__context__) is not None:
        # Of a file that can't be read or a module that isn't there, and no SDK's.
        assert isinstance(context, OSError | ValueError | ImportError | AttributeError)
        assert caught.value.__suppress_context__
    return message


async def failure(call: Awaitable[object], seconds: float = 60.0) -> KekError:
    """Return the error that a call ends in, in time; nothing hangs on it."""
    started = time.monotonic()
    with pytest.raises(KekError) as caught:
        await call
    assert time.monotonic() - started < seconds
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that hang on it."""
    if error is not None:
        yield error
        yield from chain(error.__cause__)
        yield from chain(error.__context__)


def assert_silent(secrets: Iterable[str], *errors: BaseException, log: str = "") -> None:
    """See that nothing of the secrets is in errors, in what hangs on them, and in a log."""
    parts = [f"{one} {one!r} {one.args!r}" for error in errors for one in chain(error)]
    parts += [line for error in errors for line in traceback.format_exception(error)]
    shown = "\n".join([log, *parts])
    assert not [secret for secret in secrets if secret in shown]


def noting(note: Callable[..., object], real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that tells what it is called with, and does what the real one does."""

    def call(*arguments: Any) -> Any:
        note(*arguments)
        return real(*arguments)

    return call


def counted(kek: TransitKek, name: str) -> list[int]:
    """Return the sizes of the calls of a kind, as they are made."""
    sizes: list[int] = []
    setattr(kek, name, noting(lambda items: sizes.append(len(items)), getattr(kek, name)))
    return sizes


def aws_kms_kek(name: str, **environ: str) -> AwsKmsKek:
    """Build the KEK of a key of AWS KMS."""
    made = load(f"aws-kms:{name}", environ=environ, development=False)
    assert isinstance(made, AwsKmsKek)
    return made


def transit_kek(key: str, environ: Mapping[str, str], mount: str = "transit") -> TransitKek:
    """Build the KEK of a transit key."""
    made = load(f"vault:{mount}/{key}", environ=environ, development=False)
    assert isinstance(made, TransitKek)
    return made


def transit_wrap_of_before(kek: TransitKek, user_id: str, *, derived: bool) -> Wrap:
    """Return a wrap of KEY of format 2, made as the release before made it. Blocks."""
    bound = base64.b64encode(user_id.encode()).decode()
    answer = kek._tokens.call(
        lambda client: client.secrets.transit.encrypt_data(
            **kek._path.named,
            plaintext=base64.b64encode(KEY).decode(),
            **{"context" if derived else "associated_data": bound},
        )
    )
    return kek._path.wrap_of(answer["data"])._replace(format_version=2)


@asynccontextmanager
async def transit(
    bao: Bao, key: str, environ: Mapping[str, str] | None = None, mount: str = "transit"
) -> AsyncIterator[TransitKek]:
    """Build the KEK of a transit key, with the least rights, for the length of the block."""
    made = transit_kek(key, environ or bao.environ(key), mount)
    try:
        yield made
    finally:
        await made.close()


def held_token(kek: TransitKek) -> str:
    """Return the token that a KEK would send now."""
    return str(kek._tokens._client.token)


def no_thread_waits(kek: RemoteKek) -> bool:
    """Return whether all threads that a KEK has had work for are idle."""
    threads = kek._calls._threads
    idle: int = threads._idle_semaphore._value
    return idle == len(threads._threads) > 0 and threads._work_queue.empty()


@contextmanager
def short_limits() -> Iterator[None]:
    """A try and a call end sooner than in custody: while something is broken, and only then."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calls, "ATTEMPT_SECONDS", 0.4)
        patch.setattr(calls, "CALL_SECONDS", 0.9)
        yield


async def opens(kek: KekBackend, wrap: Wrap, master_key: bytes = KEY) -> bool:
    """Return whether a wrap of alice's opens; false while its KMS can't be reached."""
    try:
        assert await kek.unwrap(of("alice"), wrap) == master_key
    except Transient:
        return False
    return True
