"""AWS KMS as its users meet it, on moto's server."""

import asyncio
import base64
import itertools
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kek_backends.aws.kek import AwsKmsKek
from kek_backends.aws.names import KeyArn, KeyName
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.binding import Binding
from kek_backends.checks import damage
from kek_backends.errors import KekError, KeyMissing, Misconfigured, Tampered
from kek_backends.findings import Verdict
from kek_backends.keyring import Keyring
from kek_backends.loader import load
from kek_backends.plain import plain_address
from kek_backends.testing import CHECKS, Check, Subject
from tests.bindings import of
from tests.kek.fakes import FakeKms
from tests.kek.kit import aws_kms_kek, refusal
from tests.kek.kms_stub import kms_stub
from tests.leaks import remember
from tests.moto_server import Moto

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls", "no_aws_environ")

KEY_ID = "1234abcd-12ab-34cd-56ef-1234567890ab"
ARN = f"arn:aws:kms:eu-central-1:111122223333:key/{KEY_ID}"
REGION = {"AWS_REGION": "eu-central-1"}

Build = Callable[..., AwsKmsKek]


@pytest.fixture
def build(moto: Moto, aws_kek: Build) -> Build:
    """Builds a backend by its name alone; variables given go over those of moto."""
    return lambda name, **environ: aws_kek(name, **{**moto.environ, **environ})


@pytest.fixture(scope="module")
def named(moto: Moto) -> dict[str, str]:
    """The two names of one key: moto takes its time to make a key."""
    name = alias()
    return {"alias": name, "arn": moto.make_key(name)}


@pytest.mark.prove
@pytest.mark.parametrize(
    ("by", "check"),
    [
        *(("arn", check) for check in CHECKS),
        *(pytest.param("alias", check, marks=pytest.mark.prove) for check in CHECKS),
    ],
    ids=lambda one: one if isinstance(one, str) else one.__name__,
)
async def test_conformance(moto: Moto, named: dict[str, str], check: Check, by: str) -> None:
    if check is damage.check_damaged_ciphertext_is_tampering:
        # moto answers AccessDeniedException to garbage; AWS, and so our stub, that it is garbage.
        with kms_stub() as stub:
            key = stub.make_key("alias/custody")
            uri = f"aws-kms:{'alias/custody' if by == 'alias' else key.arn}"
            await check(Subject.named(uri, environ=stub.environ))
        return
    secret = moto.environ["AWS_SECRET_ACCESS_KEY"]
    await check(Subject.named(f"aws-kms:{named[by]}", environ=moto.environ, secrets=[secret]))


def alias() -> str:
    return f"alias/test-{secrets.token_hex(6)}"


def master_key() -> bytes:
    key = secrets.token_bytes(32)
    remember(base64.b64encode(key).decode())
    return key


# The URI and the environment


@pytest.mark.parametrize(
    "name",
    [
        "key",
        f"key/{KEY_ID}",
        KEY_ID.upper(),
        "alias/",
        "alias/a b",
        "alias/aws/ebs",
        "alias/x\n",
        f"{ARN}/more",
        ARN.replace("kms", "s3"),
        ARN.replace("111122223333", "1111"),
        ARN.replace("eu-central-1", "here"),
        ARN.replace("arn:aws", "arn:azure"),
        ARN.replace(f"key/{KEY_ID}", "alias/aws/ebs"),
    ],
)
def test_a_name_that_no_key_has_is_refused(name: str) -> None:
    assert KeyName.parse(name) is None
    with pytest.raises(Misconfigured, match="alias"):
        load(f"aws-kms:{name}", environ=REGION, development=False)


def test_the_stamp_can_not_be_chosen() -> None:
    assert "remove ?id=" in refusal("aws-kms:alias/x?id=mine", **REGION)


def test_a_region_is_needed() -> None:
    assert "set AWS_REGION" in refusal("aws-kms:alias/x")
    assert "is not a region" in refusal("aws-kms:alias/x", AWS_REGION="eu-central-1.evil.example")
    assert aws_kms_kek("alias/x", AWS_DEFAULT_REGION="us-east-1").region == "us-east-1"
    assert aws_kms_kek(ARN, AWS_REGION="us-east-1").region == "eu-central-1"


def test_half_a_pair_of_credentials_is_refused() -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        message = refusal("aws-kms:alias/x", **REGION, **{name: "only-this-one"})
        assert "only one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in message
        assert "only-this-one" not in message


@pytest.mark.parametrize(
    "url", ["kms.example", "ftp://x", "https://", "https://u:hunter2@x", "http://["]
)
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    message = refusal("aws-kms:alias/x", **REGION, AWS_ENDPOINT_URL=url)
    assert "AWS_ENDPOINT_URL is not a URL" in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("environ", "address"),
    [
        ({}, None),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:4566"}, None),
        ({"AWS_ENDPOINT_URL": "https://kms.example"}, None),
        ({"AWS_ENDPOINT_URL": "http://kms.example"}, "http://kms.example"),
        ({"AWS_ENDPOINT_URL_KMS": "http://kms.example:8"}, "http://kms.example:8"),
        (
            {"AWS_ENDPOINT_URL_KMS": "https://kms.example", "AWS_ENDPOINT_URL": "http://other"},
            None,
        ),
        ({"AWS_PROFILE": "everything"}, "http://all.example"),
        ({"AWS_PROFILE": "services"}, "http://kms.example:8"),
        ({"AWS_PROFILE": "ignoring"}, None),
        ({"AWS_PROFILE": "everything", "AWS_ENDPOINT_URL": "https://kms.example"}, None),
    ],
)
def test_where_it_is_asked_in_clear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], address: str | None
) -> None:
    """Also by the SDK's own files, which it would read itself."""
    file = tmp_path / "config"
    file.write_text(
        "[profile everything]\nendpoint_url = http://all.example\n"
        "[profile services]\nservices = ours\nendpoint_url = https://all.example\n"
        "[services ours]\nkms =\n  endpoint_url = http://kms.example:8\n"
        "[profile ignoring]\nendpoint_url = http://all.example\n"
        "ignore_configured_endpoint_urls = true\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    backend = aws_kms_kek("alias/x", **REGION, **environ)
    assert backend.plain_address == address
    # What is asked is what was looked at.
    made = backend._client._session.create_client(
        "kms", region_name=backend.region, endpoint_url=backend._client.endpoint
    )
    asked = made.meta.endpoint_url
    made.close()
    assert plain_address(asked) == address


def test_a_profile_that_is_not_there_is_refused() -> None:
    assert "ProfileNotFound" in refusal("aws-kms:alias/x", **REGION, AWS_PROFILE="nobody")


def test_a_broken_file_of_credentials_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text("aws_secret_access_key = hunter2-hunter2-hunter2\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    message = refusal("aws-kms:alias/x", **REGION)
    assert "ConfigParseError" in message
    assert "hunter2" not in message


def test_the_profile_gives_region_and_credentials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config"
    file.write_text("[profile custody]\nregion = ap-south-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    assert aws_kms_kek("alias/x", AWS_PROFILE="custody").region == "ap-south-1"


def test_building_is_quick_and_asks_nobody() -> None:
    aws_kms_kek("alias/x", **REGION)
    started = time.monotonic()
    # An address where nobody answers: a call would take seconds.
    aws_kms_kek("alias/x", **REGION, AWS_ENDPOINT_URL="http://192.0.2.1")
    assert time.monotonic() - started < 1


def test_an_arn_stands_for_its_material() -> None:
    backend = aws_kms_kek("alias/x", **REGION)
    assert backend.fingerprint(f"aws-kms:{ARN}") == f"aws-kms:{ARN}"


def test_no_credential_is_in_any_representation() -> None:
    backend = aws_kms_kek(
        "alias/x", **REGION, AWS_ACCESS_KEY_ID="AKIA", AWS_SECRET_ACCESS_KEY="hunter2"
    )
    shown = repr(backend) + repr(vars(backend)) + repr(vars(backend._client))
    assert "hunter2" not in shown


async def test_missing_credentials_are_told_and_looked_for_again(
    build: Build, moto: Moto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = alias()
    moto.make_key(name)
    backend = build(name, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
    with pytest.raises(Misconfigured, match="no AWS credentials"):
        await backend.refresh()
    assert "no AWS credentials" in (backend.problem or "")
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(variable, moto.environ[variable])
    await backend.refresh()
    assert backend.problem is None


# Which rows are whose


def test_what_holds() -> None:
    arn = KeyArn.parse(ARN)
    assert arn is not None
    others = [
        arn.stamp.replace("1234abcd", "0000abcd"),
        arn.stamp.replace("111122223333", "444455556666"),
        arn.stamp.replace("eu-central-1", "eu-west-1"),
        "env-v1",
        ARN,
        f"vault:{ARN}",
        "aws-kms:alias/x",
        f"aws-kms:{ARN.replace(f'key/{KEY_ID}', 'alias/x')}",
        f"{arn.stamp} ",
    ]

    def held(name: str, *, told: bool = True) -> list[bool]:
        backend = aws_kms_kek(name, **REGION)
        if told:
            backend.trust(frozenset([arn.stamp, *others]))
        return [backend.holds(one) for one in (arn.stamp, *others)]

    assert held(ARN) == [True, *[False] * 9]
    assert held(KEY_ID) == [True, False, True, *[False] * 7]  # the account is not known yet
    assert held("alias/x") == [True, True, True, *[False] * 7]
    assert held(ARN.replace(f"key/{KEY_ID}", "alias/x")) == [True, True, *[False] * 8]
    # A key is what its name says; an alias, what KMS or a record says.
    assert held(ARN, told=False) == held(ARN)
    assert held(KEY_ID, told=False) == held(KEY_ID)
    assert held("alias/x", told=False) == [False] * 10


@pytest.mark.prove
async def test_an_alias_holds_what_kms_or_a_record_says_and_no_row(
    build: Build, moto: Moto
) -> None:
    name = alias()
    first, second, another = (f"aws-kms:{moto.make_key(one)}" for one in (name, name, alias()))
    backend = build(name)
    assert not backend.holds(first)
    assert not backend.holds(second)
    await backend.refresh()
    assert backend.kek_id == second
    backend.trust(frozenset([first]))
    backend.trust(frozenset())
    assert [backend.holds(one) for one in (first, second, another)] == [True, True, False]
    await backend.refresh()
    third = f"aws-kms:{moto.make_key(name)}"
    made = await backend.wrap(of("alice"), master_key())
    assert made.kek_id == third
    assert [backend.holds(one) for one in (first, second, third)] == [True] * 3


async def test_a_key_named_by_its_arn_comes_before_an_alias() -> None:
    pointing, named = (aws_kms_kek(name, **REGION) for name in ("alias/x", ARN))
    keyring = Keyring(pointing, [named])
    former = f"aws-kms:{ARN}".replace("1234abcd", "0000abcd")
    pointing.trust(frozenset([f"aws-kms:{ARN}", former]))
    assert keyring.find(f"aws-kms:{ARN}") is named
    assert keyring.find(former) is pointing
    await keyring.close()


@pytest.mark.prove
async def test_stamps_are_arns(build: Build, moto: Moto) -> None:
    name = alias()
    arn = moto.make_key(name)
    names: dict[str, str | None] = {
        arn: f"aws-kms:{arn}",
        arn.rpartition("/")[2]: None,
        name: None,
        arn.rpartition(":")[0] + f":{name}": None,
    }
    for one, known in names.items():
        backend = build(one)
        assert backend.kek_id == known
        assert backend.problem == "not reached yet"
        key = master_key()
        made = await backend.wrap(of("alice"), key)
        assert made.kek_id == backend.kek_id == f"aws-kms:{arn}"
        assert (made.format_version, made.wrap_iv) == (3, "")
        assert await build(arn).unwrap(of("alice"), made) == key
        await backend.refresh()
        assert not backend.problem


async def test_after_the_first_answer_other_accounts_are_others(build: Build, moto: Moto) -> None:
    name = alias()
    arn = moto.make_key(name)
    backend = build(name)
    other = f"aws-kms:{arn.replace('123456789012', '444455556666')}"
    backend.trust(frozenset([other]))
    assert backend.holds(other)
    await backend.refresh()
    assert not backend.holds(other)


# Binding


@pytest.mark.parametrize("plain", [4, pytest.param(18, marks=pytest.mark.prove)])
async def test_a_wrap_opens_for_its_own_user_alone(build: Build, moto: Moto, plain: int) -> None:
    backend = build(moto.make_key())
    await backend.refresh()
    users = [f"user-{number}" for number in range(plain)] + ["User-1", "użytkownik\n"]
    made = {user: (key := master_key(), await backend.wrap(of(user), key)) for user in users}
    for owner, reader in itertools.product(users, repeat=2):
        key, wrap = made[owner]
        if owner == reader:
            assert await backend.unwrap(of(reader), wrap) == key
        else:
            with pytest.raises(Tampered):
                await backend.unwrap(of(reader), wrap)
    assert backend.problem is None


async def test_a_wrap_of_format_2_is_read_for_its_user_and_comes_out_as_3(
    build: Build, moto: Moto
) -> None:
    backend, key = build(moto.make_key()), master_key()
    await backend.refresh()
    client = backend._client.get()
    answer = await asyncio.to_thread(
        client.encrypt,
        KeyId=backend._name.text,
        Plaintext=key,
        EncryptionContext={"custody:user": "alice"},
    )
    blob = base64.b64encode(answer["CiphertextBlob"]).decode()
    old = Wrap(blob, "", 2, backend.kek_id or "")
    for generation in (0, 7):
        assert await backend.unwrap(of("alice", generation), old) == key
    for binding in (of("bob"), Binding.of_data_key("alice")):
        with pytest.raises(Tampered):
            await backend.unwrap(binding, old)
    with pytest.raises(Tampered):
        await backend.unwrap(of("alice"), old._replace(format_version=3))
    items = [OwnedWrap(of("alice"), old), OwnedWrap(of("alice"), old, lambda _key: False)]
    done, wrong = await Keyring(backend).rewrap(items)
    assert type(wrong) is Tampered
    assert isinstance(done, Wrap)
    assert done.format_version == 3
    assert await backend.unwrap(of("alice"), done) == key
    with pytest.raises(Tampered):
        await backend.unwrap(of("alice", 8), done)


async def test_a_changed_wrap_does_not_open(build: Build, moto: Moto) -> None:
    backend = build(moto.make_key())
    made = await backend.wrap(of("alice"), master_key())
    blob = base64.b64decode(made.wrapped_mk)
    # Up to there moto's blob is the id of the key.
    for at in range(36, len(blob), 5):
        changed = blob[:at] + bytes([blob[at] ^ 1]) + blob[at + 1 :]
        text = base64.b64encode(changed).decode()
        with pytest.raises(Tampered):
            await backend.unwrap(of("alice"), made._replace(wrapped_mk=text))


@pytest.mark.parametrize(
    "fields",
    [
        {"wrapped_mk": ""},
        {"wrapped_mk": "not base64"},
        {"wrapped_mk": "é"},
        {"wrapped_mk": "AA"},
        {"wrapped_mk": base64.b64encode(bytes(6145)).decode()},
        {"wrap_iv": "AAAA"},
        {"format_version": 1},
        {"format_version": 4},
        {"kek_id": "aws-kms:alias/x"},
    ],
)
async def test_what_is_no_wrap_is_not_asked_for(fields: dict[str, Any]) -> None:
    # Nobody listens there.
    uri = f"aws-kms:{ARN}"
    backend = aws_kms_kek(ARN, **REGION, AWS_ENDPOINT_URL="http://127.0.0.1:1")
    bad = Wrap("QUFB", "", 3, uri)._replace(**fields)
    with pytest.raises(Tampered, match="not one of AWS KMS"):
        await backend.unwrap(of("alice"), bad)
    done = await backend._reencrypt([OwnedWrap(of("alice"), bad)])
    assert [type(one) for one in done] == [Tampered]
    await backend.close()


# An alias that moves, and re-wrapping


@pytest.mark.prove
async def test_an_alias_that_moves_is_noticed(build: Build, moto: Moto) -> None:
    name = alias()
    first = moto.make_key(name)
    backend, wrapping = build(name), build(name)
    await backend.refresh()
    key = master_key()
    old = await wrapping.wrap(of("alice"), key)
    assert old.kek_id == backend.kek_id == f"aws-kms:{first}"
    second = moto.make_key(name)
    await backend.refresh()
    new = await wrapping.wrap(of("alice"), key)
    assert new.kek_id == backend.kek_id == wrapping.kek_id == f"aws-kms:{second}"
    for one, wrap in itertools.product((backend, wrapping), (old, new)):
        assert one.holds(wrap.kek_id)
        assert await one.unwrap(of("alice"), wrap) == key


@pytest.mark.prove
async def test_rewrapping_inside_kms(build: Build, moto: Moto) -> None:
    source, target = build(moto.make_key()), build(moto.make_key())
    keys = {f"user-{number}": master_key() for number in range(8)}
    items = [OwnedWrap(of(user), await source.wrap(of(user), key)) for user, key in keys.items()]
    swapped = OwnedWrap(of("user-0"), items[1].wrap)
    broken = OwnedWrap(of("user-1"), items[1].wrap._replace(wrapped_mk="?"))
    gone = OwnedWrap(of("user-2"), items[2].wrap._replace(kek_id=f"aws-kms:{ARN}"))
    done = await target.rewrap([*items[:4], swapped, broken, gone, *items[4:]])
    bad = done[4:7]
    assert [isinstance(one, KekError) for one in bad] == [True] * 3
    assert [type(one) for one in bad[:2]] == [Tampered, Tampered]
    for (user, key), wrap in zip(keys.items(), done[:4] + done[7:], strict=True):
        assert isinstance(wrap, Wrap)
        assert wrap.kek_id == target.kek_id
        assert await target.unwrap(of(user), wrap) == key
        with pytest.raises(Tampered):
            await target.unwrap(of("mallory"), wrap)


async def test_who_takes_over_whom(build: Build) -> None:
    here, there = build("alias/x"), build("alias/x", AWS_REGION="us-east-1")
    assert here.can_rewrap_from(build(ARN))
    assert not here.can_rewrap_from(there)
    assert not here.can_rewrap_from(FakeKms())


async def test_another_region_is_reached_through_this_process(build: Build, moto: Moto) -> None:
    source, target = build(moto.make_key(region="us-east-1")), build(moto.make_key())
    assert source.region == "us-east-1"
    key = master_key()
    keyring = Keyring(target, [source])
    (done,) = await keyring.rewrap([OwnedWrap(of("alice"), await source.wrap(of("alice"), key))])
    assert isinstance(done, Wrap)
    assert done.kek_id == target.kek_id
    assert await keyring.unwrap(of("alice"), done) == key


# What an operator is told


async def test_the_doctor_finds_nothing(build: Build, moto: Moto) -> None:
    name = alias()
    arn = moto.make_key(name)
    for active, use in ((True, "wraps and unwraps"), (False, "ready to unwrap")):
        (seen,) = await build(name).examine(active=active)
        assert (seen.verdict, seen.message) == (Verdict.OK, f"{use}; kek_id aws-kms:{arn}")


@pytest.mark.prove
@pytest.mark.parametrize("active", [True, False])
async def test_the_doctor_names_what_is_wrong(build: Build, moto: Moto, active: bool) -> None:
    nowhere, disabled, deleted = alias(), alias(), alias()
    signing = moto.make_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")
    with moto.client() as client:
        client.disable_key(KeyId=moto.make_key(disabled).rpartition("/")[2])
        unwanted = moto.make_key(deleted).rpartition("/")[2]
        client.schedule_key_deletion(KeyId=unwanted, PendingWindowInDays=7)
    expected = {
        nowhere: f"aws kms create-alias --alias-name {nowhere} ",
        KEY_ID: "check the key id",
        disabled: "it is Disabled; run: aws kms enable-key --key-id ",
        deleted: "it is PendingDeletion; run: aws kms cancel-key-deletion",
        signing: "aws kms create-key",
    }
    for name, cure in expected.items():
        (seen,) = await build(name).examine(active=active)
        assert seen.verdict is Verdict.FINDING
        assert f"aws-kms:{name}: " in seen.message
        assert cure in seen.message


async def test_a_key_that_does_not_exist_is_missing(build: Build) -> None:
    backend = build(KEY_ID)
    with pytest.raises(KeyMissing, match="no such key"):
        await backend.refresh()
    with pytest.raises(KeyMissing, match=re.escape("(NotFoundException)")):
        await backend.wrap(of("alice"), master_key())
    assert "no such key" in (backend.problem or "")
