"""Traces as a collector gets them: real OTLP, by a daemon that is asked for each route."""

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from custody.ops import tracing as ops
from custody.ops.transport import of_traces
from custody.settings import load
from tests.client import Client, client_session
from tests.e2e.keks import Place, overrides
from tests.http_servers import Asked, HttpServer, serving
from tests.kek import kms_stub as stubs
from tests.kek.kms_stub import kms_stub
from tests.proofs import some
from tests.servers import ROOT, Daemon, Database, daemon_beside, daemon_here
from tests.states import IV, WRAPPED
from tests.tokens import Issuer

USER = "user-whom-nobody-may-name"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = bytes.fromhex(PARENT[3:35])


class Collector(HttpServer):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__(self._take)
        self.bodies: list[bytes] = []
        self.hangs = False

    def _take(self, asked: Asked) -> None:
        if self.hangs:
            self.closing.wait()
            return
        self.bodies.append(asked.body)
        asked.say(kind="application/x-protobuf")

    @property
    def spans(self) -> list[Span]:
        """All spans that have come."""
        return [
            span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def trace_of(self, name: str) -> tuple[Span, list[Span]]:
        """Return the one span of a name, and the others of its trace."""
        (root,) = [span for span in self.spans if span.name == name]
        others = [one for one in self.spans if one.trace_id == root.trace_id and one is not root]
        return root, [one for one in others if one.span_id != root.span_id]


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with serving(Collector()) as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


@asynccontextmanager
async def traced(
    database: Database, issuer: Issuer, folder: Path, **more: str
) -> AsyncIterator[Daemon]:
    """Run a daemon that traces; all has left when the block has ended."""
    async with daemon_here(database, issuer, folder, TRACING="otel", **more) as daemon:
        yield daemon


def said(span: Span) -> dict[str, object]:
    """Return what is told of a span."""
    return {one.key: one.value.int_value or one.value.string_value for one in span.attributes}


@pytest.mark.prove
async def test_each_route_has_its_spans_and_tells_nothing(
    database: Database, issuer: Issuer, tmp_path: Path, collector: Collector
) -> None:
    with kms_stub() as stub:
        stub.make_key("alias/custody")
        place = Place("aws-kms:alias/custody", "", stub.environ)
        async with (
            traced(database, issuer, tmp_path, **overrides(place)) as daemon,
            client_session() as session,
        ):
            user = Client(daemon, session, USER)
            init = await user.init()
            key = await user.key()
            assert (init.status, key.status) == (200, 200)
            await user.status()
            await user.call("GET", "/audit?limit=7")
            await user.rotate(if_match=key.headers["ETag"])
            tag = (await user.key()).headers["ETag"]
            await user.set_recovery(WRAPPED, IV, if_match=tag)
            await user.clear_recovery(if_match=tag)
            await user.disable_zk(key.json["masterKey"], if_match=tag)
            stub.faults["Decrypt"] = stubs.refuse("InternalException{Plaintext}", 500)
            assert (await user.key()).status == 503
            await user.call("GET", "/secret-path?secret=query")
            await Client(daemon, session, USER, aud="other").key()
            token = issuer.token(USER)
    names = {span.name for span in collector.spans}
    base = "/api/v1/me/encryption-vault"
    assert {
        *(f"GET {base}/{path}" for path in ("status", "key", "audit")),
        *(f"POST {base}/{path}" for path in ("init", "rotate", "recovery-wrap", "zero-knowledge")),
        f"DELETE {base}/recovery-wrap",
        *("request", "token check", "database read", "database batch", "audit commit"),
        *("kms call", "database connection", "database commit", "turn"),
    } <= names
    root, others = collector.trace_of(f"POST {base}/rotate")
    assert not root.parent_span_id
    assert {one.name for one in others} >= {"token check", "turn", "kms call", "database commit"}
    assert all(one.parent_span_id == root.span_id for one in others if one.name == "token check")
    assert said(root)["http.response.status_code"] == 200
    # A batch works for many: it is linked to them.
    batch = next(span for span in collector.spans if span.name == "database batch")
    assert batch.links
    assert {link.trace_id for link in batch.links} <= {span.trace_id for span in collector.spans}
    failed = [span for span in collector.spans if span.status.code == Status.STATUS_CODE_ERROR]
    assert {span.name for span in failed} >= {f"GET {base}/key", "kms call", "token check"}
    assert not [span for span in collector.spans if span.events]
    assert not [span for span in failed if span.status.message]
    everything = b"".join(collector.bodies)
    secrets = (USER, token.rpartition(".")[0][:60], key.json["masterKey"], WRAPPED, IV)
    for secret in (*secrets, "secret", "limit=7", "InternalException"):
        assert secret.encode() not in everything, secret


CASES = [
    ("127.0.0.1", PARENT, True),
    ("", PARENT, False),
    ("127.0.0.1", PARENT.upper(), False),
    ("127.0.0.1", PARENT.replace("00-", "ff-", 1), False),
    ("127.0.0.1", f"{PARENT}-{'x' * 4000}", False),
    ("127.0.0.1", f"00-{'0' * 32}-b7ad6b7169203331-01", False),
]


@pytest.mark.parametrize("case", some(CASES, *CASES[:2]))
async def test_only_a_trusted_proxy_says_which_trace_it_is(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    collector: Collector,
    case: tuple[str, str, bool],
) -> None:
    proxies, parent, joins = case
    hostile = {"tracestate": "a=planted", "baggage": "user=planted"}
    async with (
        traced(database, issuer, tmp_path, TRUSTED_PROXIES=proxies) as daemon,
        client_session() as session,
    ):
        answer = await Client(daemon, session, USER).call(
            "GET", "/status", headers={"traceparent": parent} | hostile
        )
        assert answer.status == 200
    root, _ = collector.trace_of("GET /api/v1/me/encryption-vault/status")
    assert (root.trace_id == TRACE) == joins
    assert bool(root.parent_span_id) == joins
    assert said(root)["custody.request_id"] == answer.headers["X-Request-Id"]
    assert b"planted" not in b"".join(collector.bodies)


async def test_who_is_not_sampled_by_a_proxy_is_not_traced(
    database: Database, issuer: Issuer, tmp_path: Path, collector: Collector
) -> None:
    async with (
        traced(database, issuer, tmp_path, TRUSTED_PROXIES="127.0.0.1") as daemon,
        client_session() as session,
    ):
        headers = {"traceparent": f"{PARENT[:-2]}00"}
        assert (await Client(daemon, session, USER).call("GET", "/status", headers=headers)).status
    assert not [span for span in collector.spans if span.name.startswith("GET ")]


# By itself the SDK would wait for half a minute.
@pytest.mark.prove
@pytest.mark.timeout(20)
async def test_a_collector_that_hangs_delays_no_request_and_hardly_the_stop(
    database: Database,
    issuer: Issuer,
    tmp_path: Path,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    collector.hangs = True
    monkeypatch.setattr(ops, "STOP_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    async with traced(database, issuer, tmp_path) as daemon, client_session() as session:
        user = Client(daemon, session, USER)
        assert (await user.init()).status == 200
        for _ in range(30):
            assert (await user.key()).status == 200
    assert collector.connections
    assert not collector.bodies


@pytest.mark.prove
async def test_lines_of_the_log_name_their_trace(
    database: Database, issuer: Issuer, tmp_path: Path, collector: Collector
) -> None:
    more = {
        "TRACING": "otel",
        "LOG_LEVEL": "info",
        "raw_OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
    }
    with daemon_beside(database, issuer, tmp_path, **more) as daemon:
        async with client_session() as session:
            answer = await Client(daemon, session, USER).init()
    (line,) = daemon.events("request")
    root, _ = collector.trace_of("POST /api/v1/me/encryption-vault/init")
    assert line["trace_id"] == root.trace_id.hex()
    assert line["span_id"] == root.span_id.hex()
    assert line["request_id"] == answer.headers["X-Request-Id"]


@pytest.mark.prove
def test_off_imports_nothing() -> None:
    code = "import custody.app, sys; print([m for m in sys.modules if 'opentelemetry' in m])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


ISSUER = {"CUSTODY_TRACING": "otel"}


@pytest.mark.parametrize(
    ("endpoint", "more", "refused"),
    [
        ({}, {}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}, {}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318"}, {}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://u:secret@collector:4318"}, {}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://10.1.1.1/v1/traces"}, {}, True),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
            {"CUSTODY_ALLOW_PLAIN": "otlp"},
            False,
        ),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
            {"CUSTODY_TRACING": "off"},
            None,
        ),
    ],
)
def test_a_collector_in_clear_is_refused(
    endpoint: dict[str, str], more: dict[str, str], refused: bool | None
) -> None:
    found = list(of_traces(load(ISSUER | more), endpoint))
    assert [one.refused for one in found] == ([] if refused is None else [refused])
    assert not [one for one in found if "secret" in one.message]


@pytest.mark.prove
def test_a_host_without_the_extra_is_told() -> None:
    code = (
        "import asyncio, sys; sys.modules['opentelemetry'] = None\n"
        "from custody.ops.tracing import opened\n"
        "from custody.settings import load\n"
        "async def main():\n"
        "    async with opened(load({'CUSTODY_TRACING': 'otel'})): pass\n"
        "try: asyncio.run(main())\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("ConfigurationError CUSTODY_TRACING=otel: the module opentel")
    assert done.stdout.endswith("run: pip install '.[otel]'\n")
