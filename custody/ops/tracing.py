"""Traces by OpenTelemetry: the one place that imports it, and only where CUSTODY_TRACING says so.

Spans leave by a thread of their own, out of a queue that is bounded: a collector that hangs or is
down delays no request, and a stop by :data:`STOP_SECONDS` at most.
"""

import asyncio
import logging
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import structlog

from custody import DISTRIBUTION, tracing
from custody.settings import ConfigurationError, Settings, Tracing

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, SpanContext

STOP_SECONDS: Final = 2.0
# W3C Trace Context, level 1; later versions begin alike, and are not believed.
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
_SAMPLED = 1

log = structlog.get_logger()


class OpenTelemetry:
    """A tracer that hands its spans to an exporter.

    Args:
        exporter: takes them, in a thread of its own.

    Raises:
        ImportError: OpenTelemetry is not installed.
    """

    def __init__(self, exporter: "SpanExporter") -> None:
        from opentelemetry import trace
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ours = {"service.version": version(DISTRIBUTION)}
        resource = Resource.create(ours)
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = Resource.create({**ours, SERVICE_NAME: "custody"})
        self._api = trace
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("custody")

    @contextmanager
    def span(
        self, name: str, attributes: Mapping[str, str | int], links: Sequence[object]
    ) -> Iterator[None]:
        """Return a span that lasts for a block."""
        named = {key.replace("__", "."): value for key, value in attributes.items()}
        places = [one for one in links if isinstance(one, self._api.SpanContext)]
        linked = [self._api.Link(place) for place in places if place.is_valid]
        with self._in_force(self._tracer.start_span(name, attributes=named, links=linked)):
            yield

    @contextmanager
    def request(self, traceparent: str | None) -> "Iterator[Span]":
        """Return the span of a request.

        Args:
            traceparent: of who may say which trace it belongs to; None: it begins one.
        """
        context = None
        if traceparent is not None and (parent := self._parent(traceparent)) is not None:
            context = self._api.set_span_in_context(self._api.NonRecordingSpan(parent))
        span = self._tracer.start_span("request", context=context, kind=self._api.SpanKind.SERVER)
        with self._in_force(span):
            yield span

    def failed(self, span: "Span") -> None:
        """Note that a span is of something that failed."""
        span.set_status(self._api.StatusCode.ERROR)

    def called(self, kek: str, then: Callable[[str, float], None]) -> Callable[[str, float], None]:
        """Return what makes a span of each call of a KMS, once it has ended, and goes on.

        Args:
            kek: the URI without its parameters.
            then: is told, too.
        """

        def take(outcome: str, seconds: float) -> None:
            then(outcome, seconds)
            end = time.time_ns()
            attributes = {"custody.kek": kek, "custody.outcome": outcome}
            began = end - int(seconds * 1e9)
            span = self._tracer.start_span("kms call", attributes=attributes, start_time=began)
            if outcome != "ok":
                self.failed(span)
            span.end(end)

        return take

    def here(self) -> "SpanContext":
        """Return the place of the span that is open here."""
        return self._api.get_current_span().get_span_context()

    def ids(self) -> Mapping[str, str]:
        """Return ``trace_id`` and ``span_id`` of the span that is open here, if any."""
        place = self.here()
        if not place.is_valid:
            return {}
        return {"trace_id": f"{place.trace_id:032x}", "span_id": f"{place.span_id:016x}"}

    async def close(self) -> None:
        """Send what waits, and stop; a collector that does not take it is not waited for."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def stop() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # nobody waits any more
                loop.call_soon_threadsafe(done.set)

        # The interpreter does not wait for such a thread.
        threading.Thread(target=stop, name="tracing-stop", daemon=True).start()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await done.wait()
        except TimeoutError:
            log.warning("trace_export_failed", reason="the collector did not take the last spans")

    @contextmanager
    def _in_force(self, span: "Span") -> Iterator[None]:
        # The text of an error, and its stack, may hold anything: its type alone is told.
        with self._api.use_span(
            span, end_on_exit=True, record_exception=False, set_status_on_exception=False
        ):
            try:
                yield
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                self.failed(span)
                raise

    def _parent(self, traceparent: str) -> "SpanContext | None":
        found = _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            return None
        trace_id, span_id, flags = (int(part, 16) for part in found.groups())
        parent = self._api.SpanContext(
            trace_id, span_id, is_remote=True, trace_flags=self._api.TraceFlags(flags & _SAMPLED)
        )
        return parent if parent.is_valid else None


@asynccontextmanager
async def opened(
    settings: Settings, exporter: "Callable[[], SpanExporter] | None" = None
) -> AsyncIterator[OpenTelemetry | None]:
    """Trace for the length of the block, where that is wanted; return the tracer.

    Args:
        settings: say whether.
        exporter: makes what takes the spans; None: they go where OTEL_EXPORTER_OTLP_… says.

    Raises:
        ConfigurationError: OpenTelemetry is not installed, or its own settings can't be read.
    """
    if settings.tracing is Tracing.OFF:
        yield None
        return
    try:
        tracer = OpenTelemetry((exporter or _otlp)())
    except ImportError as error:
        raise ConfigurationError(
            f"CUSTODY_TRACING=otel: the module {error.name} can't be imported; in the sources of "
            f"{DISTRIBUTION} run: pip install '.[otel]'"
        ) from None
    except ValueError:
        # Its text may quote a header.
        raise ConfigurationError(
            "CUSTODY_TRACING=otel: a variable OTEL_… has a value that OpenTelemetry can't read"
        ) from None
    tracing.install(tracer)
    try:
        yield tracer
    finally:
        tracing.install(None)
        await tracer.close()


def _otlp() -> "SpanExporter":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExportResult

    # It quotes what a collector answers. What matters is said below, once for an outage.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    class Exporter(OTLPSpanExporter):
        is_down = False

        def export(self, spans: Sequence[Any]) -> SpanExportResult:
            result = super().export(spans)
            if (failed := result is not SpanExportResult.SUCCESS) and not self.is_down:
                log.warning("trace_export_failed", reason="the collector does not take spans")
            self.is_down = failed
            return result

    return Exporter()
