"""What docs/deploy has for Compose and Kubernetes, held to custody and to itself."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from custody.cli import cli
from custody.settings import PREFIX, Settings, load
from tests.servers import ROOT
from tests.systemd.test_container import said

DEPLOY = ROOT / "docs/deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose/compose.yaml").read_text("utf-8"))
OURS = {
    name: service for name, service in COMPOSE["services"].items() if service["image"] == "custody"
}
_KUSTOMIZATION = yaml.safe_load((DEPLOY / "kubernetes/kustomization.yaml").read_text("utf-8"))
_DRAIN_SECONDS = 20


def _documents(name: str) -> list[dict[str, Any]]:
    text = (DEPLOY / "kubernetes" / name).read_text("utf-8")
    return list(yaml.safe_load_all(text))


RESOURCES = [one for name in _KUSTOMIZATION["resources"] for one in _documents(name)]
SECRETS = {one["metadata"]["name"]: one for one in _documents("secret.example.yaml")}


def _of(kind: str) -> list[dict[str, Any]]:
    found = [one for one in RESOURCES if one["kind"] == kind]
    assert found, kind
    return found


def _pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each template of a pod, with the name of what makes it."""
    for one in RESOURCES:
        spec = one.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            yield one["metadata"]["name"], spec["template"]


PODS = dict(_pods())
PLACES = [
    *(("compose", name) for name in OURS),
    *(("kubernetes", name) for name in PODS),
]


def _container(name: str) -> dict[str, Any]:
    (found,) = PODS[name]["spec"]["containers"]
    return dict(found)


def _environ(place: str, name: str) -> dict[str, str]:
    """Return the variables that a process of custody gets."""
    if place == "compose":
        return dict(OURS[name]["environment"])
    environ: dict[str, str] = {}
    for source in _container(name).get("envFrom", ()):
        (settings,) = (
            one
            for one in _of("ConfigMap")
            if one["metadata"]["name"] == source["configMapRef"]["name"]
        )
        environ |= settings["data"]
    return environ | {one["name"]: one["value"] for one in _container(name)["env"]}


def _command(place: str, name: str) -> list[str]:
    words = OURS[name]["command"] if place == "compose" else _container(name)["args"]
    return list(words)


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_every_variable_is_a_setting_that_is_accepted(
    place: str, name: str, tmp_path: Path
) -> None:
    environ = _environ(place, name)
    known = {f"{PREFIX}{field}".upper() for field in Settings.model_fields}
    given: dict[str, str] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            assert re.fullmatch(r"VAULT_(ADDR|\w+_FILE|KUBERNETES_ROLE)", variable)
            continue
        setting = variable.removesuffix("_FILE")
        assert setting in known, variable
        if variable.endswith("_FILE"):
            content = (
                "x" * 32
                if "TOKEN" in variable
                else "postgresql://role@database.example.org/custody"
            )
            (tmp_path / setting).write_text(content, "utf-8")
            given[variable] = str(tmp_path / setting)
        else:
            given[variable] = re.sub(r"\$\{\w+:\?.*?\}", "https://auth.example.org", value)
    assert not load(given).development
    assert ("CUSTODY_OWNER_DATABASE_URL_FILE" in environ) == (name.endswith("migrate"))


@pytest.mark.parametrize(("place", "name"), PLACES)
def test_every_command_is_one_of_custody(place: str, name: str) -> None:
    found: click.Command = cli
    for word in _command(place, name):
        assert isinstance(found, click.Group)
        found = found.commands[word]
    assert not isinstance(found, click.Group)


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_restricted_and_has_what_it_mounts(name: str) -> None:
    pod, container = PODS[name]["spec"], _container(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["serviceAccountName"] in {one["metadata"]["name"] for one in _of("ServiceAccount")}
    user, group = map(int, said("USER")[-1].split(":"))
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group)
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    files = set()
    for volume in volumes.values():
        if "secret" in volume:
            assert volume["secret"]["defaultMode"] == 0o400
            keys = SECRETS[volume["secret"]["secretName"]]["stringData"]
            files |= {f"{mounts[volume['name']]}/{key}" for key in keys}
        elif "projected" in volume:
            (source,) = volume["projected"]["sources"]
            files.add(f"{mounts[volume['name']]}/{source['serviceAccountToken']['path']}")
    # The map of settings is shared: what serves TLS is the daemon's alone.
    named = {value for key, value in _environ("kubernetes", name).items() if key.endswith("_FILE")}
    assert named <= files


def test_the_daemon_is_asked_how_it_is_and_has_time_to_stop() -> None:
    (daemon,) = _of("Deployment")
    container = _container("custody")
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    data = _of("ConfigMap")[0]["data"]
    listens = {
        name: int(data[f"CUSTODY_{key}"].rpartition(":")[2])
        for name, key in (("vault", "LISTEN"), ("admin", "ADMIN_LISTEN"))
    }
    assert ports == listens
    asked = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {kind: get["path"] for kind, get in asked.items()} == {
        "startup": "/livez",
        "liveness": "/livez",
        "readiness": "/readyz",
    }
    assert {get["port"] for get in asked.values()} == {"admin"}
    (_, before) = container["lifecycle"]["preStop"]["exec"]["command"]
    grace = daemon["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= int(before) + _DRAIN_SECONDS + 10
    assert daemon["spec"]["replicas"] > 1
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    for variable in ("CUSTODY_TLS_CERT", "CUSTODY_TLS_KEY"):
        folder, _, file = data[variable].rpartition("/")
        assert folder in mounts
        assert file in SECRETS["custody-tls"]["stringData"]


def _fits(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(
        labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()
    ) and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", ())
    )


def _chosen(selector: dict[str, Any]) -> set[str]:
    return {name for name, pod in PODS.items() if _fits(selector, pod["metadata"]["labels"])}


def test_selectors_choose_whom_they_are_for() -> None:
    (daemon,) = _of("Deployment")
    (budget,) = _of("PodDisruptionBudget")
    (service,) = _of("Service")
    (spread,) = daemon["spec"]["template"]["spec"]["topologySpreadConstraints"]
    for selector in (
        daemon["spec"]["selector"],
        budget["spec"]["selector"],
        spread["labelSelector"],
        {"matchLabels": service["spec"]["selector"]},
    ):
        assert _chosen(selector) == {"custody"}
    (port,) = service["spec"]["ports"]
    assert port["targetPort"] == "vault"


def test_nothing_passes_but_what_each_needs() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in _of("NetworkPolicy")}
    nothing = policies.pop("nothing")
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    reached = {
        (name, rule_port["port"])
        for policy in policies.values()
        for name in _chosen(policy["podSelector"])
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ()))
        for rule_port in rule["ports"]
    }
    jobs = {name for name in PODS if name not in {"custody", "custody-migrate"}}
    assert reached == (
        {("custody", port) for port in (3001, 3002, 53, 5432, 8200, 443)}
        | {("custody-migrate", port) for port in (53, 5432)}
        | {(name, port) for name in jobs for port in (53, 5432, 8200)}
    )
    for policy in policies.values():
        for rule in (*policy.get("ingress", ()), *policy.get("egress", ())):
            assert rule.get("from") or rule.get("to")


def test_what_is_applied_is_all_there_is_but_the_secrets() -> None:
    there = {file.name for file in (DEPLOY / "kubernetes").glob("*.yaml")}
    assert there - {"kustomization.yaml", "secret.example.yaml"} == set(_KUSTOMIZATION["resources"])
    (image,) = _KUSTOMIZATION["images"]
    assert {_container(name)["image"] for name in PODS} == {image["name"]}
    assert "Secret" not in {one["kind"] for one in RESOURCES}
    values = [value for one in SECRETS.values() for value in one["stringData"].values()]
    assert set(values) == {""}
    assert {one["metadata"]["name"] for one in _of("CronJob")} == {
        "custody-rewrap",
        "custody-drill",
        "custody-verify",
    }
    for job in _of("CronJob"):
        assert job["spec"]["concurrencyPolicy"] == "Forbid"


def test_compose_keeps_networks_apart_and_ports_on_loopback() -> None:
    services = COMPOSE["services"]
    assert services["postgres"]["networks"] == ["database"]
    assert services["openbao"]["networks"] == ["kms"]
    assert COMPOSE["networks"] == {
        "front": {},
        "database": {"internal": True},
        "kms": {"internal": True},
    }
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports == {"custody": ["127.0.0.1:3001:3001"]}
    for service in OURS.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert not service.get("volumes")
    assert OURS["migrate"]["networks"] == ["database"]
    assert OURS["custody"]["depends_on"]["migrate"] == {
        "condition": "service_completed_successfully"
    }
    assert int(OURS["custody"]["stop_grace_period"].removesuffix("s")) > _DRAIN_SECONDS
    for name, service in services.items():
        jobs = name in {"migrate", "admin"}
        asked = service.get("healthcheck", {})
        assert asked.get("disable", False) is jobs
        assert jobs or name == "custody" or asked["test"][0] == "CMD"


def test_compose_mounts_the_secrets_that_the_script_makes(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "compose/make-secrets", tmp_path)
    for _ in range(2):
        subprocess.run(["./make-secrets"], cwd=tmp_path, check=True, capture_output=True)
    made = {file.name: file.read_text("utf-8").strip() for file in (tmp_path / "secrets").iterdir()}
    assert {name: f"./secrets/{name}" for name in made} == {
        name: secret["file"] for name, secret in COMPOSE["secrets"].items()
    }
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    used = {name for service in COMPOSE["services"].values() for name in service.get("secrets", ())}
    assert used == made.keys()
    # Bao's static seal takes 32 bytes.
    assert len(made["bao_seal"]) == 32
    roles = (DEPLOY / "compose/roles.sh").read_text("utf-8")
    for name in ("owner", "daemon", "rewrap", "audit"):
        found = re.fullmatch(r"postgresql://(\w+):(\w+)@postgres:5432/custody", made[f"{name}_url"])
        assert found is not None
        assert found[2] == made[f"{name}_password"]
        assert re.search(rf"CREATE ROLE {found[1]} LOGIN .*'\$\(password {name}\)'", roles)
    for name, service in OURS.items():
        files = {value for key, value in service["environment"].items() if key.endswith("_FILE")}
        assert files == {f"/run/secrets/{secret}" for secret in service["secrets"]}, name
