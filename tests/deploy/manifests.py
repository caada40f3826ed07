"""Loads the Kubernetes manifests: the files of the base, and the output of kustomize for an overlay."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
BASE = REPOSITORY / "deploy" / "base"
OVERLAYS = ("dev", "production", "declared")

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Manifests:
    documents: list[Manifest]

    def of_kind(self, kind: str) -> list[Manifest]:
        return [document for document in self.documents if document["kind"] == kind]

    def named(self, kind: str, name: str) -> Manifest:
        (found,) = (document for document in self.of_kind(kind) if document["metadata"]["name"] == name)
        return found

    def workloads(self) -> list[Manifest]:
        return [document for document in self.documents if "template" in document.get("spec", {})]

    def of_callgate(self) -> list[Manifest]:
        """Returns the workloads with the image that the Dockerfile builds, including the simulator."""
        return [workload for workload in self.workloads() if container(workload)["image"].partition(":")[0] == "callgate"]


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Manifest) -> Manifest:
    (only,) = pod(workload)["containers"]
    assert isinstance(only, dict)
    return only


def labels(workload: Manifest) -> dict[str, str]:
    found: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return found


def base() -> Manifests:
    """Returns the documents of the kustomize base. Reads the files directly, without kustomize."""
    files = yaml.safe_load((BASE / "kustomization.yaml").read_text())["resources"]
    return Manifests([document for file in files for document in yaml.safe_load_all((BASE / file).read_text())])


@cache
def rendered(overlay: str) -> Manifests:
    return render(REPOSITORY / "deploy" / "overlays" / overlay)


def render(folder: Path) -> Manifests:
    """Returns what kustomize or kubectl makes of the folder. Skips the test if this machine has neither."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    elif os.environ.get("CALLGATE_REQUIRE_RENDERER"):
        pytest.fail("neither kustomize nor kubectl is on this machine")
    else:
        pytest.skip("neither kustomize nor kubectl is on this machine")
    result = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=True)
    return Manifests(list(yaml.safe_load_all(result.stdout)))
