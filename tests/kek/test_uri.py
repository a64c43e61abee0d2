"""KEK URIs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kek_backends.errors import Misconfigured
from kek_backends.uri import KekUri, Mode


@pytest.mark.parametrize(
    ("text", "scheme", "path", "kek_id"),
    [
        ("env:MANA_AUTH_KEK", "env", "MANA_AUTH_KEK", None),
        ("env:K?id=env-v2", "env", "K", "env-v2"),
        ("env:K?id=a%2Fb", "env", "K", "a/b"),
        ("vault:transit/custody", "vault", "transit/custody", None),
        ("aws-kms:arn:aws:kms:eu-1:1:key/ab-c", "aws-kms", "arn:aws:kms:eu-1:1:key/ab-c", None),
        ("aws-kms:alias/custody?id=x", "aws-kms", "alias/custody", "x"),
        ("env:K?id=" + "a" * 255, "env", "K", "a" * 255),
        ("env:K?", "env", "K", None),
    ],
)
def test_parts(text: str, scheme: str, path: str, kek_id: str | None) -> None:
    uri = KekUri.parse(text)
    assert uri == KekUri(text, scheme, path, kek_id)
    # However it was written.
    plain = text.replace("%2F", "/").removesuffix("?")
    assert uri.key_text == uri.in_mode(Mode.DIRECT).text == plain


@pytest.mark.parametrize(
    ("text", "key_text", "mode"),
    [
        ("env:K?mode=envelope", "env:K", Mode.ENVELOPE),
        ("env:K?mode=direct", "env:K", Mode.DIRECT),
        ("env:K?id=a&mode=envelope", "env:K?id=a", Mode.ENVELOPE),
        ("env:K?mode=envelope&id=a/b:c", "env:K?id=a/b:c", Mode.ENVELOPE),
        ("vault:t/k?mode=envelope", "vault:t/k", Mode.ENVELOPE),
    ],
)
def test_mode_is_no_part_of_the_key(text: str, key_text: str, mode: Mode) -> None:
    uri = KekUri.parse(text)
    assert (uri.mode, uri.key_text) == (mode, key_text)
    assert KekUri.parse(key_text).in_mode(mode).key_text == key_text
    assert KekUri.parse(KekUri.parse(key_text).in_mode(Mode.ENVELOPE).text) == uri.in_mode(
        Mode.ENVELOPE
    )


@pytest.mark.parametrize("mode", ["", "Envelope", "envelope ", "x"])
def test_unknown_mode(mode: str) -> None:
    with pytest.raises(Misconfigured, match="mode is direct or envelope"):
        KekUri.parse(f"env:K?mode={mode}")


@pytest.mark.parametrize("kek_id", ["dk-", "dk-01932e00000070008000000000000001"])
def test_an_id_is_never_one_of_a_data_key(kek_id: str) -> None:
    with pytest.raises(Misconfigured, match="an id may not begin with dk-"):
        KekUri.parse(f"env:K?id={kek_id}")


@pytest.mark.parametrize(
    "text",
    ["", "env", "env:", ":K", "ENV:K", "1env:K", "env :K", " env:K", "e\u0301nv:K", "env:?id=x"],
)
def test_no_uri(text: str) -> None:
    with pytest.raises(Misconfigured, match="is not a KEK URI: write scheme:name"):
        KekUri.parse(text)


@pytest.mark.parametrize(
    "query", ["x=1", "id=a&id=b", "id=a&x=b", "ID=a", "mode=envelope&mode=envelope"]
)
def test_unknown_parameter(query: str) -> None:
    with pytest.raises(Misconfigured, match=r"two parameters are known, each once: \?id="):
        KekUri.parse(f"env:K?{query}")


@pytest.mark.parametrize(
    "kek_id", ["", "a b", "a%0Ab", "-a", "ä", "a%00", "a'", "a%0a", "a" * 256, "."]
)
def test_bad_id(kek_id: str) -> None:
    with pytest.raises(Misconfigured, match="an id has 1 to 255 letters"):
        KekUri.parse(f"env:K?id={kek_id}")


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused_in_one_line(text: str) -> None:
    try:
        uri = KekUri.parse(text)
    except Misconfigured as error:
        message = str(error)
    else:
        message = f"{uri.scheme}:{uri.path}"
        assert text.startswith(message)
        return
    assert len(message.splitlines()) == 1
