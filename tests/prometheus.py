"""Debian's Prometheus and its promtool."""

import os
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession, web

from tests.ports import free_port


def binary(name: str) -> str:
    """Return the path of ``prometheus`` or ``promtool``; where it is not, the test is skipped."""
    found = shutil.which(name)
    if found is None:
        lacking = pytest.fail if os.environ.get("CI") else pytest.skip
        lacking(f"{name} is not installed: apt-get install --no-install-recommends prometheus")
    return found


def lint(exposition: str) -> str:
    """Return what ``promtool check metrics`` finds wrong; nothing is the best.

    Args:
        exposition: OpenMetrics. Debian's promtool reads the form of before, in which a counter is
            described under its whole name and nothing says when it was made.
    """
    lines = [line for line in exposition.splitlines() if "_created" not in line.split("{")[0]]
    text = "\n".join(lines)
    for counter in re.findall(r"(?m)^# TYPE (\w+) counter$", text):
        text = re.sub(rf"(?m)^# (HELP|TYPE) {counter} ", rf"# \1 {counter}_total ", text)
    done = subprocess.run(
        [binary("promtool"), "check", "metrics"],
        input=text + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout + done.stderr


@asynccontextmanager
async def prometheus(folder: Path, rules: Path, **targets: list[str]) -> AsyncIterator[str]:
    """Run a Prometheus that scrapes these addresses, by job, twice a second; return its own.

    Args:
        folder: for what it keeps.
        rules: file of its alerts.
        targets: addresses by job.
    """
    jobs = "".join(
        f"  - job_name: {job}\n    static_configs: [{{targets: {_places(addresses)}}}]\n"
        for job, addresses in targets.items()
    )
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 500ms}\n"
        f"rule_files: ['{rules}']\nscrape_configs:\n{jobs}"
    )
    address = f"127.0.0.1:{free_port()}"
    with subprocess.Popen(  # noqa: ASYNC220 - it begins at once
        [
            binary("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield f"http://{address}"
        finally:
            process.kill()


def _places(addresses: list[str]) -> list[str]:
    return [urlsplit(address).netloc for address in addresses]


async def ask(session: ClientSession, prometheus: str, query: str) -> list[dict[str, Any]]:
    """Return what a query finds now; nothing while it is starting."""
    query = query.replace("$__rate_interval", "5s")
    url, parameters = f"{prometheus}/api/v1/query", {"query": query}
    try:
        async with session.get(url, params=parameters) as answer:
            if answer.status == 503:
                return []
            found = await answer.json()
    except OSError:
        return []
    assert found["status"] == "success", found
    result: list[dict[str, Any]] = found["data"]["result"]
    return result


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@asynccontextmanager
async def exporter(path: Path) -> AsyncIterator[str]:
    """Serve what a file of metrics has, as node_exporter does; nothing while it is not there."""

    async def show(_request: web.Request) -> web.Response:
        return web.Response(text=_read(path))

    app = web.Application()
    app.router.add_get("/metrics", show)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()
