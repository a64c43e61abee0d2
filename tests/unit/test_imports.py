"""The directions of import, over the source itself, as ``docs/architecture.md`` has them."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import entry_points, packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from custody import DISTRIBUTION
from kek_backends.loader import ENTRY_POINT_GROUP
from tests.servers import ROOT

PACKAGES = ("custody", "kek_backends")
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in (ROOT / package).rglob("*.py")
}
# Single modules that all of custody may use, and that use nothing of it but a URL's form.
EVERYBODYS = {
    *("settings", "deadline", "strict_json", "nearest", "loopback", "bounded", "tracing"),
    "DISTRIBUTION",
}
# Where a KEK's SDK lives: the folders of backends, and no list of them.
BACKENDS = {
    one.module: one
    for one in entry_points(group=ENTRY_POINT_GROUP)
    if one.module.startswith("kek_backends.") and one.module.count(".") > 1
}
REST = "kek_backends.rest"
WITHOUT_THE_WEB = ("audit", "auth", "db", "keks", "rewrap", "vault", "verify", "kek_backends")


@cache
def imports(module: str) -> tuple[str, ...]:
    """Return the dotted names of everything that a module imports, wherever in it."""
    found: list[str] = []
    for node in ast.walk(ast.parse(FILES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            # "from custody import app" is an import of custody.app.
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return tuple(found)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def offenders(imported: tuple[str, ...], *, but: tuple[str, ...]) -> list[str]:
    """Return who imports what only those of ``but`` may."""
    return [
        f"{module} imports {name}"
        for module in FILES
        if not within(module, *but)
        for name in imports(module)
        if within(name, *imported)
    ]


def room(name: str) -> str:
    """Return the room of a module: the folder in custody, a single module, or kek_backends."""
    top, _, rest = name.partition(".")
    return rest.partition(".")[0] or top if top == "custody" else top


def directions() -> dict[str, set[str]]:
    """Return who may import whom, as the documents say it."""
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    block = page.partition("## Imports")[2].partition("```text\n")[2].partition("```")[0]
    rooms = {room(module) for module in FILES}
    allowed: dict[str, set[str]] = {}
    for line in block.splitlines():
        who, _, whom = line.partition(" → ")
        everything = rooms - {whom.removeprefix("everything but ")}
        named = everything if whom.startswith("everything") else set(whom.split(", ")) - {"nothing"}
        allowed |= dict.fromkeys(who.split(", "), named)
    return allowed


def test_every_room_has_its_directions() -> None:
    rooms = {room(module) for module in FILES} - {"custody", "__main__"}
    assert directions().keys() == rooms - EVERYBODYS


@pytest.mark.parametrize("who", sorted({room(module) for module in FILES}))
def test_direction(who: str) -> None:
    if who in {"custody", "__main__"}:
        allowed = {"cli"}
    else:
        allowed = directions().get(who, {"db"}) | (set() if who == "kek_backends" else EVERYBODYS)
    found = {
        f"{module} imports {name}"
        for module in FILES
        if room(module) == who
        for name in imports(module)
        if within(name, *PACKAGES) and room(name) not in allowed | {who}
    }
    assert found == set()


def test_no_circle() -> None:
    graph: dict[str, set[str]] = defaultdict(set)
    for module in FILES:
        for name in imports(module):
            # Of "from a.b import c", c may be a module, or a name in a.b.
            used = name if name in FILES else name.rpartition(".")[0]
            if used in FILES and used != module:
                graph[module].add(used)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def test_no_circle_of_rooms() -> None:
    allowed = directions()
    graph = {who: whom - {who} for who, whom in allowed.items()}
    assert list(TopologicalSorter(graph).static_order())


def test_the_vaults_side_knows_no_web() -> None:
    for module in FILES:
        if room(module) in WITHOUT_THE_WEB:
            assert [name for name in imports(module) if within(name, "aiohttp.web")] == []


def test_the_driver_stays_in_the_database_package() -> None:
    # rows: two of its error types, inside a transaction
    assert offenders(("asyncpg", "psycopg"), but=("custody.db", "custody.vault.rows")) == []


def test_sqlalchemy_is_a_pool_and_only_that() -> None:
    """Outside of the database package only the type of its pool is named, in signatures."""
    others = offenders(("sqlalchemy",), but=("custody.db",))
    assert others == [one for one in others if one.endswith(" sqlalchemy.ext.asyncio.AsyncEngine")]


def test_audit_rows_are_not_written_from_http() -> None:
    found = offenders(("custody.audit.writer",), but=("custody.audit", "custody.vault"))
    assert [one for one in found if room(one) == "http"] == []


def test_product_code_knows_no_tests() -> None:
    assert offenders(("tests", "pytest"), but=("kek_backends.testing",)) == []


def sdk_of(folder: str) -> set[str]:
    """Return what a backend's folder imports that a host may be without."""
    core = {
        one.name.lower()
        for one in map(Requirement, requires(DISTRIBUTION) or ())
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }
    distributions = packages_distributions()
    used = {
        name.partition(".")[0]
        for module in FILES
        if within(module, folder)
        for name in imports(module)
    }
    return {
        name
        for name in used - sys.stdlib_module_names - set(PACKAGES)
        if not {one.lower() for one in distributions.get(name, ())} & core
    }


@pytest.mark.prove
@pytest.mark.parametrize("module", sorted(BACKENDS))
def test_a_backend_is_loaded_by_name(module: str) -> None:
    """Its folder, and so its SDK, comes by entry point alone: a host without it boots."""
    folder = module.rpartition(".")[0]
    assert offenders((folder,), but=(folder,)) == []
    sdk = sdk_of(folder)
    assert sdk
    others = {one.rpartition(".")[0] for one in BACKENDS}
    # What KMS without an SDK share; of requests several make use.
    assert [
        one
        for one in offenders(tuple(sdk), but=(folder, REST))
        if not (" imports requests" in one and within(one.partition(" ")[0], *others))
    ] == []


def test_what_kms_share_is_loaded_by_them_alone() -> None:
    assert offenders((REST,), but=tuple(one.rpartition(".")[0] for one in BACKENDS)) == []


def test_every_folder_of_a_kms_has_an_entry_point() -> None:
    folders = {path.name for path in (ROOT / "kek_backends").iterdir() if path.is_dir()}
    of_kms = {module.split(".")[1] for module in BACKENDS}
    assert folders - {"__pycache__", "checks"} == of_kms


@pytest.mark.prove
def test_a_host_without_the_sdks_boots() -> None:
    code = (
        "import sys; sdks = 'hvac', 'requests', 'boto3', 'botocore', 'pkcs11'\n"
        "sys.modules.update(dict.fromkeys(sdks))\n"
        "import custody.cli, custody.app\n"
        "from kek_backends.loader import load\n"
        "load('env:KEY', environ={}, development=True)\n"
        "for name in ('vault:transit/key', 'aws-kms:alias/key', 'pkcs11:token=a;object=b',\n"
        "             'gcp-kms:projects/p', 'azure-kv:https://v/keys/k'):\n"
        "    try: load(name, environ={}, development=False)\n"
        "    except Exception as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    cure = f"in the sources of {DISTRIBUTION} run: pip install"
    assert f"hvac can't be imported; {cure} '.[vault]'" in run.stdout
    assert f"botocore.session can't be imported; {cure} '.[aws]'" in run.stdout
    assert f"the module pkcs11 can't be imported; {cure} '.[pkcs11]'" in run.stdout
    assert f"requests can't be imported; {cure} '.[gcp]'" in run.stdout
    assert f"requests can't be imported; {cure} '.[azure]'" in run.stdout


def test_the_table_of_rooms_is_the_tree() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = page.partition("## The house")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| (`[^|]+)", table)
    named = {path for cell in cells for path in re.findall(r"`([^`]+)`", cell)}
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    rooms = {
        path.parent.relative_to(ROOT).as_posix() + "/"
        for package in PACKAGES
        for path in (ROOT / package).rglob("__init__.py")
    }
    single = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "custody").glob("*.py")
        if not path.name.startswith("__")
    }
    tops = {"sql/migrations/", "sql/queries/", "systemd/", "tests/", "docs/"}
    assert named == rooms - {"custody/"} | single | tops
