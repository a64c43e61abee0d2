"""Which host is asked for a key of AWS KMS: FIPS, dual-stack, of a VPC; and that it is that one."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.awsrequest import AWSResponse

from kek_backends.aws.kek import AwsKmsKek
from kek_backends.errors import Misconfigured, Transient
from tests.authority import Authority
from tests.http_servers import serving
from tests.kek.kit import aws_kms_kek, failure, refusal
from tests.kek.kms_stub import KmsStub

pytestmark = pytest.mark.usefixtures("known_backends", "no_aws_environ", "patient_calls", "quick")

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIA", "AWS_SECRET_ACCESS_KEY": "a-secret-of-nobody-at-all"}
FIPS, DUAL = {"AWS_USE_FIPS_ENDPOINT": "true"}, {"AWS_USE_DUALSTACK_ENDPOINT": "TRUE"}
VPC = "https://vpce-0a1b2c3d.kms.eu-central-1.vpce.amazonaws.com"


async def asked(region: str, **environ: str) -> str:
    """Return the URL that a call goes to, which is not sent."""
    kek = aws_kms_kek("alias/x", AWS_REGION=region, **CREDENTIALS, **environ)
    seen: list[str] = []

    def instead(request: object, **_: object) -> AWSResponse:
        seen.append(request.url)  # type: ignore[attr-defined]
        return AWSResponse(request.url, 500, {}, None)  # type: ignore[attr-defined]

    kek._client.get().meta.events.register("before-send.kms", instead)
    assert type(await failure(kek.refresh())) is Transient
    await kek.close()
    return seen[0]


@pytest.mark.parametrize(
    ("region", "environ", "host"),
    [
        ("eu-central-1", {}, "kms.eu-central-1.amazonaws.com"),
        ("us-east-1", FIPS, "kms-fips.us-east-1.amazonaws.com"),
        ("us-gov-west-1", FIPS, "kms-fips.us-gov-west-1.amazonaws.com"),
        ("eu-central-1", DUAL, "kms.eu-central-1.api.aws"),
        ("us-east-1", FIPS | DUAL, "kms-fips.us-east-1.api.aws"),
        ("cn-north-1", {}, "kms.cn-north-1.amazonaws.com.cn"),
        ("eu-central-1", {"AWS_USE_FIPS_ENDPOINT": "false"}, "kms.eu-central-1.amazonaws.com"),
        ("eu-central-1", {"AWS_ENDPOINT_URL_KMS": VPC}, VPC.removeprefix("https://")),
    ],
)
async def test_host(region: str, environ: dict[str, str], host: str) -> None:
    url = urlsplit(await asked(region, **environ))
    assert (url.scheme, url.netloc) == ("https", host)


async def test_by_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "config"
    file.write_text("[profile custody]\nuse_fips_endpoint = true\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    environ = {"AWS_PROFILE": "custody"}
    assert "//kms-fips.us-east-1." in await asked("us-east-1", **environ)
    environ["AWS_USE_FIPS_ENDPOINT"] = "false"
    assert "//kms.us-east-1." in await asked("us-east-1", **environ)


@pytest.mark.parametrize("name", ["AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT"])
def test_what_would_be_another_host_in_silence_is_refused(name: str) -> None:
    here = {"AWS_REGION": "us-east-1"}
    # To the SDK these are no.
    for value in ("1", "yes", "on"):
        assert f"{name} must be true or false" in refusal(
            "aws-kms:alias/x", **here, **{name: value}
        )
    both = refusal("aws-kms:alias/x", **here, **{name: "true"}, AWS_ENDPOINT_URL_KMS=VPC)
    assert f"{name} and an endpoint of your own" in both


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path / "authority")


@pytest.fixture(params=[("127.0.0.1",), ("kms.other.test",)], ids=["its own", "another"])
def stub(authority: Authority, request: pytest.FixtureRequest) -> Iterator[KmsStub]:
    """A KMS on loopback over TLS, whose certificate is for a name."""
    pair = authority.issue("kms", *request.param)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    server = KmsStub()
    server.make_key("alias/custody")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.url = server.url.replace("http:", "https:")
    with serving(server):
        yield server


async def test_the_name_in_the_certificate_is_looked_at(
    stub: KmsStub,
    authority: Authority,
    aws_kek: Callable[..., AwsKmsKek],
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    untrusting = aws_kek("alias/custody", **stub.environ)
    assert type(await failure(untrusting.refresh())) is Misconfigured
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.ca))
    trusting = aws_kek("alias/custody", **stub.environ)
    if "its own" in request.node.name:
        await trusting.refresh()
        assert trusting.problem is None
    else:
        error = await failure(trusting.refresh())
        assert type(error) is Misconfigured
        assert "not trusted, or for another name" in str(error)
