"""The files in deploy/: they parse, and every flag, path and metric that they name exists."""

import dataclasses
import importlib.util
import inspect
import json
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from chart import render

from interlace.cli.main import app, run
from interlace.serve.http.auth import is_open

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("check_dockerfile", ROOT / "scripts" / "check_dockerfile.py")
assert spec is not None
assert spec.loader is not None
check_dockerfile = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_dockerfile)
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "interlace"
PLAIN = [path for path in sorted(DEPLOY.rglob("*.y*ml")) if "templates" not in path.parts]


def values(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((CHART / "values.yaml").read_text()), **changes}


def schema() -> Any:
    return json.loads((CHART / "values.schema.json").read_text())


def flags_of(command: str) -> set[str]:
    names: set[str] = set()
    for argument in app[command].assemble_argument_collection():
        names.update(argument.names)
    return names


def commands() -> list[tuple[str, list[str]]]:
    """Every `interlace` command line of the files, as words, with where it stands."""
    found: list[tuple[str, list[str]]] = []
    for path in (DEPLOY / "docker").iterdir():
        words = re.findall(r'^CMD (\["serve".*\])', path.read_text(), re.M)
        found += [(path.name, json.loads(line)) for line in words]
    for path in PLAIN:
        found += [(path.name, line) for line in _arguments(list(yaml.safe_load_all(path.read_text())))]
        if path.name == "rayjob.yaml":
            words = shlex.split(yaml.safe_load(path.read_text())["spec"]["entrypoint"])
            found.append((path.name, words[1:]))
    for path in (DEPLOY / "slurm" / "bulk.sbatch", DEPLOY / "systemd" / "interlace.service"):
        for line in re.findall(r"interlace ((?:serve|t2i) .*)", path.read_text().replace("\\\n", " ")):
            found.append((path.name, shlex.split(line)))
    for template in (CHART / "templates").glob("*.yaml"):
        found += [(template.name, line) for line in _arguments(render(template, values()))]
    return found


def _arguments(node: Any) -> list[list[str]]:
    """Lists of words that begin with one of our commands, wherever they stand."""
    if isinstance(node, dict):
        return [line for value in node.values() for line in _arguments(value)]
    if isinstance(node, list):
        if node and node[0] in ("serve", "t2i", "edit"):
            return [[str(word) for word in node]]
        return [line for value in node for line in _arguments(value)]
    return []


def test_every_file_parses() -> None:
    assert PLAIN
    for path in PLAIN:
        assert list(yaml.safe_load_all(path.read_text())), path
    subprocess.run(["bash", "-n", DEPLOY / "slurm" / "bulk.sbatch"], check=True)


def test_every_flag_of_every_command_exists() -> None:
    lines = commands()
    assert {where for where, _ in lines} >= {"Dockerfile", "Dockerfile.cpu", "compose.yaml", "serve.yaml"}
    assert {where for where, _ in lines} >= {
        "rayjob.yaml",
        "bulk-job.yaml",
        "bulk.sbatch",
        "interlace.service",
        "deployment.yaml",
    }
    for where, (command, *words) in lines:
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= flags_of(command), f"{where}: {used - flags_of(command)}"


def test_every_probe_asks_a_path_that_needs_no_key() -> None:
    text = "".join(path.read_text() for path in DEPLOY.rglob("*") if path.is_file())
    paths = set(re.findall(r"path: (/(?:health|liveness|metrics)\b[\w/]*)", text))
    assert paths == {"/health", "/liveness", "/metrics"}
    assert all(is_open(path) for path in paths)


def test_pods_have_longer_to_end_than_the_server_drains() -> None:
    (deployment,) = render(CHART / "templates" / "deployment.yaml", values(drainS=300))
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > 300
    assert "--drain-s=300" in pod["containers"][0]["args"]
    plain = next(
        d for d in yaml.safe_load_all((DEPLOY / "k8s" / "serve.yaml").read_text()) if d["kind"] == "Deployment"
    )
    pod = plain["spec"]["template"]["spec"]
    words = pod["containers"][0]["args"]
    assert pod["terminationGracePeriodSeconds"] > int(words[words.index("--drain-s") + 1]) + 5


@pytest.mark.parametrize("kind", ["keda", "hpa"])
def test_the_chart_renders_with_everything_switched_on(kind: str) -> None:
    given = values(apiKey="secret", extraArgs=["--policy=sjf"], tolerations=[{"key": "gpu", "operator": "Exists"}])
    given["autoscaling"] = {**given["autoscaling"], "enabled": True, "kind": kind}
    given["serviceMonitor"] = {"enabled": True, "interval": "5s"}
    jsonschema_rs.validate(schema(), given)
    documents = [d for template in (CHART / "templates").glob("*.yaml") for d in render(template, given)]
    kinds = {document["kind"] for document in documents}
    assert kinds == {"Deployment", "Service", "Secret", "PersistentVolumeClaim", "PodDisruptionBudget",
                     "ServiceMonitor", "ScaledObject" if kind == "keda" else "HorizontalPodAutoscaler"}  # fmt: skip
    deployment = next(document for document in documents if document["kind"] == "Deployment")
    assert "replicas" not in deployment["spec"]  # the scaler's
    assert deployment["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--policy=sjf"


def test_the_chart_refuses_a_misspelt_value() -> None:
    jsonschema_rs.validate(schema(), values())
    with pytest.raises(jsonschema_rs.ValidationError, match="replica"):
        jsonschema_rs.validate(schema(), values(replica=2))


def kubernetes_objects() -> list[dict[str, Any]]:
    """Of the plain files, of the chart in three ways, and each pod that the clusters of KubeRay are made of."""
    scaling = {**values()["autoscaling"], "enabled": True, "kind": "hpa"}
    ways = [values(), values(surge=0, apiKey="secret"), values(autoscaling=scaling)]
    found = [one for path in sorted((DEPLOY / "k8s").iterdir()) for one in yaml.safe_load_all(path.read_text())]
    found += [one for way in ways for path in (CHART / "templates").glob("*.yaml") for one in render(path, way)]
    for name, cluster in (("rayservice", "rayClusterConfig"), ("rayjob", "rayClusterSpec")):
        spec = yaml.safe_load((DEPLOY / "ray" / f"{name}.yaml").read_text())["spec"][cluster]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = {"metadata": {"name": name}, "template": group["template"]}
            found.append({"apiVersion": "v1", "kind": "PodTemplate", **pod})
    return [one for one in found if not one["apiVersion"].startswith(("monitoring.coreos.com", "keda.sh"))]


def test_kubernetes_knows_every_field() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate").validate
    found = kubernetes_objects()
    assert len(found) > 20
    for one in found:
        validate(one, "1.31", strict=True)
    service = next(one for one in found if one["kind"] == "Service")
    with pytest.raises(Exception, match="portz"):
        validate({**service, "spec": {"portz": []}}, "1.31", strict=True)


def test_autoscaling_asks_for_a_metric_that_the_server_has() -> None:
    text = (CHART / "templates" / "scaling.yaml").read_text()
    source = "".join(path.read_text() for path in (ROOT / "interlace" / "serve").glob("*.py"))
    assert "interlace:num_requests_waiting" in text
    assert '"num_requests_waiting"' in source


def serve_configs() -> list[dict[str, Any]]:
    """What Ray Serve is given: the file, and what the RayService holds."""
    service = yaml.safe_load((DEPLOY / "ray" / "rayservice.yaml").read_text())
    return [
        yaml.safe_load((DEPLOY / "ray" / "serve-config.yaml").read_text()),
        yaml.safe_load(service["spec"]["serveConfigV2"]),
    ]


def test_serve_configs_are_rays_and_their_arguments_ours() -> None:
    schema = pytest.importorskip("ray.serve.schema")
    from interlace.config import EngineConfig
    from interlace.ray.serving import app as ours
    from interlace.ray.serving.scaling import Autoscaling
    from interlace.serve.settings import ServeSettings

    options = {field.name for field in dataclasses.fields(EngineConfig)}
    for config in serve_configs():
        (application,) = schema.ServeDeploySchema.model_validate(config).applications
        assert application.import_path == f"{ours.build.__module__}:{ours.build.__name__}"
        named = inspect.signature(ours.app).parameters
        assert set(application.args) - set(named) <= options
        Autoscaling(**application.args["autoscaling"])
        ServeSettings(**application.args["settings"])


def test_pods_of_ray_have_longer_to_end_than_the_server_drains() -> None:
    service = yaml.safe_load((DEPLOY / "ray" / "rayservice.yaml").read_text())["spec"]
    (application,) = yaml.safe_load(service["serveConfigV2"])["applications"]
    cluster = service["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        grace = group["template"]["spec"]["terminationGracePeriodSeconds"]
        assert grace > application["args"]["settings"]["drain_s"] + 10


def test_clusters_name_the_version_of_ray_that_is_tested() -> None:
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M)
    assert pinned
    for name in ("rayservice.yaml", "rayjob.yaml"):
        assert f'rayVersion: "{pinned[1]}"' in (DEPLOY / "ray" / name).read_text()


def test_mounted_files_exist() -> None:
    compose = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text())
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / "compose" / source).exists(), source
    assert (DEPLOY / "compose" / compose["services"]["interlace"]["build"]["context"]).resolve() == ROOT
    for name in ("Dockerfile", "Dockerfile.cpu", "Dockerfile.ray"):
        for line in re.findall(r"^COPY (.*)$", (DEPLOY / "docker" / name).read_text(), re.M):
            assert all((ROOT / source).exists() for source in line.split()[:-1]), line


def test_what_an_image_copies_is_all_that_its_install_needs(tmp_path: Path) -> None:
    """`scripts/check_dockerfile.py` runs all of an image's commands, in a clean venv; here the wheel is built."""
    pytest.importorskip("hatchling")
    check_dockerfile.copy(steps_of("Dockerfile"), tmp_path / "src")  # the other image copies more
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, "."]
    subprocess.run(command, cwd=tmp_path / "src", check=True)
    (wheel,) = tmp_path.glob("interlace-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    ours = (path for path in (ROOT / "interlace").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert {str(path.relative_to(ROOT)) for path in ours} <= held


def steps_of(name: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = check_dockerfile.instructions((DEPLOY / "docker" / name).read_text())
    return found


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.cpu"])
def test_an_image_asks_for_its_health_where_it_serves_and_is_nobody_special(name: str) -> None:
    found = dict(steps_of(name))
    port = json.loads(found["CMD"])[-1]
    assert f":{port}/health" in found["HEALTHCHECK"]
    assert (found["EXPOSE"], found["USER"]) == (port, "interlace")


def test_the_sizing_that_the_page_shows_is_what_its_command_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    pattern = r"```text\ninterlace (bench simulate .*)\n```\n\nIt ends with:\n\n```text\n(.*)\n```"
    [(command, told)] = re.findall(pattern, page)
    assert run(shlex.split(command)) == 0
    assert told in " ".join(capsys.readouterr().err.split())
