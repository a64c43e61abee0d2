"""The Containerfile: what it says, and its steps, run one by one on a system without an engine."""

import json
import os
import re
import shlex
import stat
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.eventually import soon
from tests.ports import free_port
from tests.servers import ROOT
from tests.systemd.conftest import need
from tests.systemd.installation import CHECKOUT, SOURCES
from tests.systemd.throwaway import Bind, System, throwaway, unavailable

FOLDER = ROOT / "docs/deploy/container"
# The pip of an image of Python, which a Debian need not have.
_PYTHON = """#!/bin/sh
PYTHONPATH=/pip${PYTHONPATH:+:$PYTHONPATH} exec /usr/bin/python3 "$@"
"""
_PASSED_ON = re.compile(r"PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|(?i:https?|no)_proxy")


def steps() -> Iterator[tuple[str, str]]:
    """Yield instruction and arguments, in order."""
    text = (FOLDER / "Containerfile").read_text("utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if line:
            name, _, rest = line.partition(" ")
            yield name, rest


def said(name: str) -> list[str]:
    """Return the arguments of each instruction of a name."""
    return [rest for found, rest in steps() if found == name]


def sources() -> Iterator[tuple[list[str], str]]:
    """Yield what is copied from the context, and where to."""
    for rest in said("COPY"):
        words = shlex.split(rest)
        if not words[0].startswith("--from"):
            yield words[:-1], words[-1]


def health() -> list[str]:
    """Return the command that asks whether it is well."""
    (line,) = said("HEALTHCHECK")
    command: list[str] = json.loads(line.partition("CMD ")[2])
    return command


def test_it_is_nobody_in_the_end_and_stops_by_what_the_daemon_takes() -> None:
    user, group = map(int, said("USER")[-1].split(":"))
    assert user >= 1000
    assert group >= 1000
    assert said("STOPSIGNAL") == ["SIGTERM"]
    assert [json.loads(rest) for rest in said("ENTRYPOINT") + said("CMD")] == [
        ["custody"],
        ["serve"],
    ]
    assert not any("curl" in word or word.endswith("/sh") for word in health())


def test_both_stages_have_one_base_and_only_copies_lead_from_one_to_the_other() -> None:
    assert said("FROM") == ["${BASE} AS build", "${BASE}"]
    (base,) = said("ARG")
    assert re.fullmatch(r"BASE=docker\.io/library/python:3\.\d+-slim-\w+", base)
    names = [name for name, _ in steps()]
    assert "RUN" not in names[len(names) - names[::-1].index("FROM") :]


def test_the_build_is_shown_what_it_copies_and_nothing_else() -> None:
    ignore = (FOLDER / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    shown = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    copied = {source for words, _ in sources() for source in words}
    assert shown == copied
    assert "*" in ignore
    for source in copied:
        assert (ROOT / source).exists(), source


@pytest.mark.prove
@pytest.mark.timeout(300)
def test_its_steps_make_what_serves_as_nobody_and_says_that_it_is_well(
    interpreter: tuple[int, ...],
) -> None:
    need(unavailable())
    pip = Bind(Path(sysconfig.get_path("purelib"), "pip"), Path("/pip/pip"), read_only=True)
    with throwaway([CHECKOUT, pip]) as system:
        system.write("/usr/local/bin/python3", _PYTHON, 0o755)
        _build(system)
        system.run("rm", "-r", "/src", "/build", "/usr/local/bin/python3")
        _serve(system)


def _build(system: System) -> None:
    passed = {name: value for name, value in os.environ.items() if _PASSED_ON.fullmatch(name)}
    folder = "/"
    for name, rest in steps():
        match name:
            case "WORKDIR":
                folder = rest
                system.run("mkdir", "-p", folder)
            case "COPY" if not rest.startswith("--from"):
                *words, target = shlex.split(rest)
                place = Path(folder, target)
                system.run("mkdir", "-p", str(place))
                # Of a folder an engine copies what is in it.
                below = "/." if (ROOT / words[0]).is_dir() else ""
                system.run("cp", "-r", *(f"{SOURCES / word}{below}" for word in words), str(place))
            case "RUN":
                script = f"umask 022; cd {folder}; {rest}"
                system.run("sh", "-euc", script, environ=passed, seconds=240)
            case _:
                pass


def _serve(system: System) -> None:
    """Serve without a database: it is alive then, and not ready."""
    user, group = said("USER")[-1].split(":")
    vault = f"127.0.0.1:{free_port()}"
    admin = free_port()
    kek, path = "/run/kek", dict(re.findall(r"(\w+)=(\S+)", said("ENV")[0]))["PATH"]
    system.run(
        "sh", "-c", f"umask 377; head -c 32 /dev/urandom | base64 > {kek}; chown {user} {kek}"
    )
    options = {
        "PATH": path,
        "MANA_AUTH_KEK_FILE": kek,
        "CUSTODY_LISTEN": vault,
        "CUSTODY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "CUSTODY_DATABASE_URL": f"postgresql://nobody@127.0.0.1:{free_port()}/none",
        "CUSTODY_JWT_ISSUER": "https://auth.example.org",
        "CUSTODY_JWKS_URL": f"https://127.0.0.1:{free_port()}/jwks",
    }
    environ = [word for name, value in options.items() for word in ("--setenv", f"{name}={value}")]
    # As an engine would: a number that is nobody's here, no capabilities, nothing to write to.
    nobody = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs"]
    nobody += ["--inh-caps=-all", "--bounding-set=-all"]
    started = ["systemd-run", "--quiet", "--unit=image", "--property=ReadOnlyPaths=/", *environ]
    system.run(*started, *nobody, "/opt/custody/bin/custody", "serve")
    asked = [word.replace(":3002/", f":{admin}/") for word in health()]
    assert asked != health()

    def well() -> bool:
        return system.run(*asked, check=False).returncode == 0

    soon(well, 20)
    system.run("systemctl", "stop", "image")
    assert not well()
    assert '"event": "stopped"' in system.journal("image")
    assert not stat.S_IMODE(system.path("/opt/custody").stat().st_mode) & 0o022
