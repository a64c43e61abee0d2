"""A multi-Region key of AWS KMS is one key: replicas open each other's rows, under one kek_id."""

import asyncio
import secrets
from collections.abc import Callable

import pytest

from kek_backends.aws.kek import AwsKmsKek
from kek_backends.aws.key import replicas_of
from kek_backends.aws.names import KeyArn
from kek_backends.base import OwnedWrap, Wrap
from kek_backends.checks import damage
from kek_backends.errors import KeyMissing, Tampered
from kek_backends.keyring import Keyring
from kek_backends.testing import CHECKS, Check, Subject
from tests.bindings import of
from tests.kek.kit import KEY, aws_kms_kek, failure
from tests.moto_server import REGION, Moto

pytestmark = pytest.mark.usefixtures("known_backends", "patient_calls", "no_aws_environ")

OTHER = "us-east-1"
Build = Callable[..., AwsKmsKek]
# To garbage moto answers that access is denied; our stub, that it is garbage: test_aws_kms.py.
OF_MOTO = [check for check in CHECKS if check is not damage.check_damaged_ciphertext_is_tampering]


@pytest.fixture
def build(moto: Moto, aws_kek: Build) -> Build:
    """Builds a backend of a key in a region."""
    return lambda name, region=REGION: aws_kek(name, **moto.environ | {"AWS_REGION": region})


@pytest.fixture
def arns(moto: Moto) -> tuple[str, str]:
    """The ARNs of one multi-Region key in two regions, the one that was made first."""
    arn = moto.make_key(MultiRegion=True)
    moto.replicate(arn, OTHER)
    return arn, arn.replace(REGION, OTHER)


@pytest.mark.prove
async def test_replicas_open_each_others_wraps(build: Build, arns: tuple[str, str]) -> None:
    here, there = build(arns[0]), build(arns[1])
    for one, other in ((here, there), (there, here)):
        wrap = await one.wrap(of("alice"), KEY)
        assert wrap.kek_id == f"aws-kms:{one._name.text}"
        assert other.holds(wrap.kek_id)
        assert await other.unwrap(of("alice"), wrap) == KEY
        assert type(await failure(other.unwrap(of("bob"), wrap))) is Tampered
        await other.refresh()
        (done,) = await Keyring(other).rewrap([OwnedWrap(of("alice"), wrap)])
        assert isinstance(done, Wrap)
        assert done.kek_id == other.kek_id
        assert await one.unwrap(of("alice"), done) == KEY


@pytest.mark.prove
@pytest.mark.parametrize("check", OF_MOTO, ids=lambda check: check.__name__)
async def test_conformance_of_a_replica(moto: Moto, arns: tuple[str, str], check: Check) -> None:
    secret = moto.environ["AWS_SECRET_ACCESS_KEY"]
    await check(Subject.named(f"aws-kms:{arns[1]}", environ=moto.environ, secrets=[secret]))


@pytest.mark.parametrize("by", ["arn", "id", "alias"])
async def test_the_replica_on_record_gives_the_kek_id(
    moto: Moto, build: Build, arns: tuple[str, str], by: str
) -> None:
    """So there is one line in the registry, one count of rows, and one retirement."""
    first, second = (f"aws-kms:{arn}" for arn in arns)
    alias = f"alias/test-{secrets.token_hex(6)}"
    names = {"arn": arns[1], "id": arns[1].rpartition("/")[2], "alias": alias}
    with moto.client(OTHER) as client:
        client.create_alias(AliasName=alias, TargetKeyId=arns[1])
    there = build(names[by], OTHER)
    # Nor is its own name a stamp yet: it would be a second one.
    there.trust(frozenset())
    assert there.kek_id is None
    # Before the key is known here nothing can be said of it by an alias.
    assert there.holds(first) is (by != "alias")
    await there.refresh()
    assert there.holds(first)
    assert there.kek_id == second
    there.trust(frozenset({first, "aws-kms:arn:aws:kms:us-east-1:111122223333:key/none"}))
    assert there.kek_id == first
    wrap = await there.wrap(of("alice"), KEY)
    assert wrap.kek_id == first
    assert await there.unwrap(of("alice"), wrap) == KEY
    assert await build(arns[0]).unwrap(of("alice"), wrap) == KEY


async def test_a_wrap_asks_where_the_key_is_before_it_is_stamped(
    build: Build, arns: tuple[str, str]
) -> None:
    """As a daemon does whose KMS was down when it started."""
    there = build(arns[1])
    there.trust(frozenset({f"aws-kms:{arns[0]}"}))
    assert (await there.wrap(of("alice"), KEY)).kek_id == f"aws-kms:{arns[0]}"


async def test_two_on_record_after_two_first_boots_and_all_agree(
    build: Build, arns: tuple[str, str]
) -> None:
    both = frozenset(f"aws-kms:{arn}" for arn in arns)
    backends = [build(arn) for arn in arns]
    for one in backends:
        await one.refresh()
        one.trust(both)
    assert {one.kek_id for one in backends} == {min(both)}


async def test_a_region_that_kms_does_not_name_gives_no_kek_id(
    build: Build, arns: tuple[str, str]
) -> None:
    """Whoever writes rows can name any region, and such a row still opens: it is the same key."""
    here, invented = build(arns[0]), f"aws-kms:{arns[0]}".replace(REGION, "aa-nowhere-1")
    wrap = await here.wrap(of("alice"), KEY)
    await here.refresh()
    here.trust(frozenset({invented}))
    assert here.kek_id == f"aws-kms:{arns[0]}"
    assert await here.unwrap(of("alice"), wrap._replace(kek_id=invented)) == KEY


@pytest.mark.prove
async def test_what_is_no_replica(build: Build, arns: tuple[str, str], moto: Moto) -> None:
    here = build(arns[0])
    await here.refresh()
    other = moto.make_key(MultiRegion=True)
    single = moto.make_key()
    for stranger in (
        other.replace(REGION, OTHER),
        arns[1].replace("arn:aws:", "arn:aws-cn:"),
        arns[1].replace("123456789012", "210987654321"),
        single,
    ):
        assert not here.holds(f"aws-kms:{stranger}")
    alone = build(single)
    assert not alone.holds(f"aws-kms:{single.replace(REGION, OTHER)}")
    await alone.refresh()
    alone.trust(frozenset({f"aws-kms:{single.replace(REGION, OTHER)}"}))
    assert alone.kek_id == f"aws-kms:{single}"


def test_metadata_that_names_strangers_makes_no_replicas() -> None:
    own = f"arn:aws:kms:{REGION}:111122223333:key/mrk-{'a' * 32}"
    named = [own, own.replace(REGION, OTHER), own.replace("aaaa", "bbbb"), "nonsense", None]
    metadata = {
        "Arn": own,
        "MultiRegionConfiguration": {
            "PrimaryKey": {"Arn": own.replace("111122223333", "444455556666")},
            "ReplicaKeys": [{"Arn": one} for one in named],
        },
    }
    assert replicas_of(metadata) == {f"aws-kms:{one}" for one in named[:2]}
    assert replicas_of({"Arn": own}) == frozenset()


def test_another_key_has_no_replicas() -> None:
    arn = KeyArn.parse(
        f"arn:aws:kms:{REGION}:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    )
    assert arn is not None
    assert arn.in_region(OTHER) == arn


@pytest.mark.prove
async def test_both_in_one_keyring_are_one(build: Build, arns: tuple[str, str]) -> None:
    keyring = Keyring(build(arns[1]), [build(arns[0])])
    wraps = await asyncio.gather(*(one.wrap(of("alice"), KEY) for one in keyring))
    for backend in keyring:
        await backend.refresh()
        backend.trust(frozenset({f"aws-kms:{arns[0]}"}))
    assert keyring.kek_ids == (f"aws-kms:{arns[0]}",) * 2
    for wrap in wraps:
        assert await keyring.unwrap(of("alice"), wrap) == KEY


def test_the_region_of_the_uri_is_asked() -> None:
    arn = f"arn:aws:kms:{OTHER}:111122223333:key/mrk-{'a' * 32}"
    assert aws_kms_kek(arn, AWS_REGION=REGION).region == OTHER


async def test_a_replica_that_is_gone_is_missing(build: Build, arns: tuple[str, str]) -> None:
    """Asked in a region that has none, KMS knows no such key: nothing is made there."""
    with pytest.raises(KeyMissing, match="no such key in eu-west-1"):
        await build(arns[0].replace(REGION, "eu-west-1")).refresh()
