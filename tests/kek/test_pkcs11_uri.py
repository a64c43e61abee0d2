"""``pkcs11:`` URIs as RFC 7512 writes them, and the file with the PIN."""

from pathlib import Path

import pytest

from kek_backends.errors import Misconfigured
from kek_backends.pkcs11.address import Address
from kek_backends.pkcs11.module import environ_of_module
from kek_backends.uri import KekUri, Mode, looks_like_a_key
from tests.kek.kit import refusal

PLACE = "module-path=/lib/m.so&pin-source=file:/etc/pin"
PIN = "correct-horse-battery"


def address(text: str, **environ: str) -> Address:
    return Address.parse(KekUri.parse(text), environ)


def test_all_that_can_be_said() -> None:
    text = (
        "pkcs11:token=My%20token%3B;manufacturer=Acme%2C+Inc;serial=0a;model=M%c3%bc;slot-id=7;"
        f"object=k%2F1;id=%00%FF1;type=secret-key?{PLACE}"
    )
    found = address(text)
    assert found == Address(
        module="/lib/m.so",
        pin=Path("/etc/pin"),
        token=(
            ("token", "My token;"),
            ("manufacturer", "Acme,+Inc"),
            ("serial", "0a"),
            ("model", "Mü"),
            ("slot-id", "7"),
        ),
        label="k/1",
        key_id=b"\x00\xff1",
    )


def test_where_the_module_and_the_pin_are_is_part_of_the_key() -> None:
    text = f"pkcs11:token=t;object=o?{PLACE}&mode=envelope"
    uri = KekUri.parse(text)
    assert uri.mode is Mode.ENVELOPE
    assert uri.key_text == f"pkcs11:token=t;object=o?{PLACE}"
    assert KekUri.parse(uri.key_text).in_mode(Mode.ENVELOPE) == uri
    strange = KekUri.parse("pkcs11:token=t;object=o?module-path=/a+b%20c.so&id=pkcs11:1/02")
    assert dict(strange.options) == {"module-path": "/a+b c.so"}
    assert KekUri.parse(strange.key_text).options == strange.options
    assert strange.kek_id == "pkcs11:1/02"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("file:/etc/pin", "/etc/pin"),
        ("file:///etc/pin", "/etc/pin"),
        ("/etc/pin", "/etc/pin"),
        ("file:/etc/a%20b", "/etc/a b"),
        ("systemd:hsm_pin", "/run/credentials/hsm_pin"),
    ],
)
def test_sources_of_a_pin(source: str, path: str) -> None:
    found = address(
        f"pkcs11:token=t;object=o?module-path=/m.so&pin-source={source}",
        CREDENTIALS_DIRECTORY="/run/credentials",
    )
    assert found.pin == Path(path)


@pytest.mark.parametrize(
    ("path", "query", "says"),
    [
        ("token=t;object=o", "", "module-path is the whole path"),
        ("token=t;object=o", "module-path=m.so&pin-source=/p", "module-path is the whole path"),
        ("token=t;object=o", "module-path=/m.so", "pin-source names the file with the PIN"),
        ("token=t;object=o", "module-path=/m.so&pin-source=pin", "pin-source names the file"),
        ("token=t;object=o", "module-path=/m.so&pin-source=|/bin/pin", "pin-source names the file"),
        ("token=t;object=o", "module-path=/m.so&pin-source=systemd:p", "CREDENTIALS_DIRECTORY is"),
        ("token=t;object=o", "module-path=/m.so&pin-source=systemd:../p", "is not the name of a"),
        ("token=t", PLACE, "name a token and a key"),
        ("object=o", PLACE, "name a token and a key"),
        ("token=t;object=o;type=private", PLACE, "the type of a KEK is secret-key"),
        ("token=t;object=o;slot-id=x", PLACE, "slot-id is a number"),
        ("token=t;object=o;token=u", PLACE, "token is there twice"),
        ("token=;object=o", PLACE, "token is there twice, or without a value"),
        ("token=%ff;object=o", PLACE, "token is not UTF-8"),
        ("token=t;object=o;library-version=3", PLACE, "no attribute 'library-version'; known: "),
        ("token=t;object=o;x-vendor=3", PLACE, "no attribute 'x-vendor'"),
        ("token=t;object", PLACE, "no attribute 'object'"),
    ],
)
def test_what_is_wrong_is_named(path: str, query: str, says: str) -> None:
    assert says in refusal(f"pkcs11:{path}{'?' if query else ''}{query}")


@pytest.mark.parametrize(
    "text",
    [
        f"pkcs11:token=t;object=o?module-path=/m.so&pin-value={PIN}",
        f"pkcs11:token=t;object=o;pin-value={PIN}?module-path=/m.so",
        f"pkcs11:token=t;object=o?pin%2Dvalue={PIN}",
        f"pkcs11:token=t;object=o?module-path=/m.so&pinvalue={PIN}",
        f"pkcs11:token=t;object=o?module-path=/m.so&mode=envelope&pin={PIN}",
    ],
)
def test_a_pin_in_the_uri_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        KekUri.parse(text)
    assert PIN not in str(caught.value)
    assert "pin" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"1234", 0o444, "others may use it"),
        (b"", 0o400, "does not hold a PIN"),
        (b"\n", 0o400, "does not hold a PIN"),
        (b"12\n34\n", 0o400, "does not hold a PIN"),
        (b"\xff\xfe", 0o400, "does not hold a PIN"),
        (None, 0o400, "does not exist"),
    ],
)
def test_the_file_of_the_pin(tmp_path: Path, content: bytes | None, mode: int, says: str) -> None:
    file = tmp_path / "pin"
    if content is not None:
        file.write_bytes(content)
        file.chmod(mode)
    assert says in refusal(f"pkcs11:token=t;object=o?module-path=/m.so&pin-source={file}")


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "pin"
    file.write_text("1234\r\n")
    file.chmod(0o400)
    uri = f"pkcs11:token=t;object=o?module-path=/no/m.so&pin-source={file}"
    assert refusal(uri).endswith("there is no file /no/m.so: install the module")
    assert address(uri).read_pin(KekUri.parse(uri)) == "1234"


def test_the_module_sees_none_of_the_daemons_secrets() -> None:
    # It looks like base64 of 32 bytes.
    store = "/proc/self/" + "/" * 28 + "task"
    assert looks_like_a_key(store)
    environ = {
        "SOFTHSM2_CONF": "/etc/softhsm2.conf",
        "CUSTODY_DATABASE_URL": "postgresql://u:p@h/d",
        "AWS_SECRET_ACCESS_KEY": "x",
        "VAULT_TOKEN": "x",
        "ANY_KEK": "A" * 43 + "=",
        "HOME": "/root",
        "NOTIFY_SOCKET": "@x",
        "STORE": str(store),
    }
    kept = environ_of_module(environ)
    assert kept.keys() == {"SOFTHSM2_CONF", "HOME", "PYTHONPATH", "STORE"}
