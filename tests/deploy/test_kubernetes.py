"""The manifests: valid by Kubernetes' own schemas, consistent with each other and with the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tokenhub.environment import load_settings, option_names

Manifest = dict[str, Any]
VERSION = "1.32"


def read_all(folder: Path) -> dict[str, Manifest]:
    """Each manifest by its file's name."""
    return {path.name: yaml.safe_load(path.read_text()) for path in sorted(folder.glob("*.yaml"))}


@pytest.fixture
def manifests(repository: Path) -> dict[str, Manifest]:
    """All of them but the kustomization, which is no object of the cluster."""
    found = read_all(repository / "k8s")
    del found["kustomization.yaml"]
    return found


@pytest.fixture
def pod(manifests: dict[str, Manifest]) -> Manifest:
    """The deployment's pod."""
    spec: Manifest = manifests["deployment.yaml"]["spec"]["template"]["spec"]
    return spec


def test_every_manifest_is_valid_strictly(manifests: dict[str, Manifest]) -> None:
    assert len(manifests) >= 9
    for name, manifest in manifests.items():
        kubernetes_validate.validate(manifest, VERSION, strict=True)
        assert manifest["metadata"].get("namespace", "tokenhub") == "tokenhub", name


def test_a_misspelt_field_would_be_found(manifests: dict[str, Manifest]) -> None:
    manifests["deployment.yaml"]["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifests["deployment.yaml"], VERSION, strict=True)


def test_the_kustomization_names_every_manifest_but_the_examples(
    repository: Path, manifests: dict[str, Manifest]
) -> None:
    kustomization = yaml.safe_load((repository / "k8s" / "kustomization.yaml").read_text())
    assert set(kustomization["resources"]) == {name for name in manifests if ".example." not in name}


def test_config_and_example_secret_make_valid_settings(
    manifests: dict[str, Manifest], tmp_path: Path
) -> None:
    data = dict(manifests["configmap.yaml"]["data"])
    config = tmp_path / "config.yaml"
    config.write_text(data.pop("config.yaml"))
    environment = {**data, **manifests["secret.example.yaml"]["stringData"], "TOKENHUB_CONFIG": str(config)}
    environment["TOKENHUB_ADMIN_PASSWORD"] = "a password that someone chose"
    settings = load_settings(environment)
    assert settings.https is True
    assert settings.trusted_proxies
    assert set(data) <= {f"TOKENHUB_{name.upper()}" for name in option_names()}


def test_kubernetes_does_not_add_variables_that_look_like_settings(pod: Manifest) -> None:
    assert pod["enableServiceLinks"] is False


def test_the_pod_is_confined(pod: Manifest) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["initContainers"], *pod["containers"]):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert {"/data", "/tmp"} <= set(mounts)
        assert set(mounts.values()) <= {volume["name"] for volume in pod["volumes"]}


def test_probes_ask_what_the_gateway_answers(pod: Manifest) -> None:
    (container,) = pod["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
    names = {port["name"] for port in container["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert container[probe]["httpGet"]["port"] in names


def test_the_pod_may_end_in_time(pod: Manifest, manifests: dict[str, Manifest]) -> None:
    grace = float(manifests["configmap.yaml"]["data"]["TOKENHUB_SHUTDOWN_GRACE_SECONDS"])
    wait = int(pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= grace + wait + 10


def test_selectors_find_the_pods(manifests: dict[str, Manifest]) -> None:
    labels = manifests["deployment.yaml"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["deployment.yaml"]["spec"]["selector"]["matchLabels"],
        manifests["service.yaml"]["spec"]["selector"],
        manifests["poddisruptionbudget.yaml"]["spec"]["selector"]["matchLabels"],
        manifests["networkpolicy.yaml"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)


def test_no_pod_reaches_the_clouds_metadata_service(manifests: dict[str, Manifest]) -> None:
    blocks = [
        target["ipBlock"]
        for rule in manifests["networkpolicy.yaml"]["spec"]["egress"]
        for target in rule["to"]
        if "ipBlock" in target
    ]
    assert blocks
    assert all("169.254.0.0/16" in block["except"] for block in blocks)


def test_image_and_arguments_fit_the_dockerfile(pod: Manifest, repository: Path) -> None:
    dockerfile = (repository / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["python", "manage.py"]' in dockerfile
    assert f"USER {pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" in dockerfile
    assert [container["args"][0] for container in (*pod["initContainers"], *pod["containers"])] == [
        "bootstrap",
        "serve",
    ]
