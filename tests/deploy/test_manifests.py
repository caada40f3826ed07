"""Tests that the manifests agree with the application, the image and each other. A schema cannot check this."""

import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.core import TyperGroup
from typer.main import get_command

from app.calls.callback_urls import CALLBACK_PATH
from app.calls.creation.placement import DRAIN_COMMIT_TIMEOUT_S
from app.cli import app as command_line
from app.database.pool import MAX_CONNECTIONS as MAX_STATEMENT_CONNECTIONS
from app.http.operations import CONSOLE_PREFIX
from app.http.readiness import READY_TIMEOUT_S
from app.main import create_app
from app.services import dial_time_budget
from app.setting_values import SETTING_PREFIX
from app.settings import SECRETS_DIR, Settings
from app.workloads.tokens import MAX_TOKEN_LIFETIME_S
from simulator.config import SimulatorConfig
from simulator.main import create_app as create_simulator
from tests.deploy.manifests import OVERLAYS, REPOSITORY, Manifest, Manifests, base, container, labels, pod, render, rendered

PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
SUPERUSER_RESERVED_CONNECTIONS = 3  # Postgres's default
MAX_JOB_BACKOFF_S = 360  # between two tries of a Job
SECRET_FILES = {"callgate_database_url", "callgate_secret_keys"}


@pytest.fixture(params=["base", *OVERLAYS], scope="module")
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return base() if request.param == "base" else rendered(request.param)


@pytest.fixture(params=OVERLAYS, scope="module")
def overlay(request: pytest.FixtureRequest) -> Manifests:
    return rendered(request.param)


def command(workload: Manifest) -> tuple[str, dict[str, Any]]:
    """Returns the callgate command of a container and its parameters. Raises the command line's error for invalid arguments.

    The container for commands has another command, which is returned without parameters.
    """
    if "command" in container(workload):
        return container(workload)["command"][0], {}
    callgate = get_command(command_line)
    assert isinstance(callgate, TyperGroup)
    name, *arguments = container(workload)["args"]
    return name, callgate.commands[name].make_context(name, list(arguments)).params


def ports_of(workload: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container(workload)["ports"]}


def config_of(manifests: Manifests) -> Manifest:
    """Returns the ConfigMap with Callgate's settings. The ConfigMap with the declared tenants is ignored."""
    (config,) = (each for each in manifests.of_kind("ConfigMap") if not each["metadata"]["name"].startswith("callgate-tenants"))
    return config


def settings_of(manifests: Manifests) -> Settings:
    config = config_of(manifests)
    given = {name.removeprefix(SETTING_PREFIX).lower(): value for name, value in config["data"].items()}
    return Settings.model_validate(given)


@cache
def paths_of(command_name: str) -> frozenset[str]:
    app = create_simulator(SimulatorConfig()) if command_name == "simulator" else create_app(Settings())
    return frozenset(app.openapi()["paths"])


def named_settings(document: Any) -> Iterator[str]:
    yield from re.findall(rf"\b{SETTING_PREFIX}[A-Z_]+", yaml.safe_dump(document))


def cluster_scoped(overlay: Manifests) -> set[tuple[str, str]]:
    """Returns the kind and name of each resource without a namespace. All overlays in a cluster share these names."""
    metadata = [(document["kind"], document["metadata"]) for document in overlay.documents]
    return {(kind, each["name"]) for kind, each in metadata if "namespace" not in each}


def matches(selector: Manifest, pod_labels: dict[str, str]) -> bool:
    labels_match = selector.get("matchLabels", {}).items() <= pod_labels.items()
    expressions: list[Manifest] = selector.get("matchExpressions", [])
    return labels_match and all(pod_labels.get(one["key"]) in one["values"] for one in expressions if one["operator"] == "In")


def test_an_overlay_has_every_resource_of_an_installation(overlay: Manifests) -> None:
    kinds = {document["kind"] for document in overlay.documents}
    assert kinds >= {
        "Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Job", "Service", "NetworkPolicy",
        "PodDisruptionBudget", "HorizontalPodAutoscaler",
    }  # fmt: skip
    assert {command(workload)[0] for workload in overlay.of_callgate()} >= {"serve", "worker", "migrate"}


def test_only_the_dev_overlay_has_a_simulator_and_a_postgres() -> None:
    production = {command(workload)[0] for workload in rendered("production").of_callgate()}
    assert production == {"serve", "worker", "migrate", "sleep"}
    assert {command(workload)[0] for workload in rendered("dev").of_callgate()} == production | {"simulator"}
    assert rendered("production").of_kind("StatefulSet") == []


def test_the_declared_overlay_adds_a_job_and_its_file_to_the_production_overlay() -> None:
    production, declared = rendered("production").documents, rendered("declared").documents
    added = [document for document in declared if document not in production]
    assert [document for document in production if document not in declared] == []
    assert sorted(document["kind"] for document in added) == ["ConfigMap", "Job"]
    (job,) = (document for document in added if document["kind"] == "Job")
    (config,) = (document for document in added if document["kind"] == "ConfigMap")
    _, parameters = command(job)
    mounts = {mount["mountPath"]: mount["name"] for mount in container(job)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(job)["volumes"]}
    folder, _, file = parameters["file"].rpartition("/")
    assert volumes[mounts[folder]]["configMap"]["name"] == config["metadata"]["name"]
    named = re.findall(r"\{file: (/\S+)/\w+\}", config["data"][file])
    assert {volumes[mounts[path]]["secret"]["secretName"] for path in named} == {"callgate-tenants"}


@pytest.fixture
def production_copy(tmp_path: Path) -> Path:
    """Returns the folder of an operator's copy of the production overlay, beside copies of the base and the components."""
    shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy")
    return tmp_path / "deploy" / "overlays" / "production"


def test_an_overlay_of_ones_own_can_declare_tenants(production_copy: Path) -> None:
    """The overlay has the component and the generator that docs/administration.md and the declared overlay name."""
    declared = yaml.safe_load((production_copy.parent / "declared" / "kustomization.yaml").read_text())
    own = yaml.safe_load((production_copy / "kustomization.yaml").read_text())
    own["components"] = declared["components"]
    own["configMapGenerator"] += declared["configMapGenerator"]
    (production_copy / "kustomization.yaml").write_text(yaml.safe_dump(own))
    (production_copy / "tenants.yaml").write_text("tenants: []\n")
    manifests = render(production_copy)
    (config,) = (each for each in manifests.of_kind("ConfigMap") if each["metadata"]["name"].startswith("callgate-tenants"))
    assert config["data"] == {"tenants.yaml": "tenants: []\n"}
    volumes = pod(manifests.named("Job", "callgate-apply"))["volumes"]
    assert {"name": "tenants", "configMap": {"name": config["metadata"]["name"]}} in volumes


def test_the_lines_of_the_production_overlay_for_workload_identities_can_be_uncommented(production_copy: Path) -> None:
    file = production_copy / "kustomization.yaml"
    lines = r"^(\s*)# ((?:components:|  - \.\./\.\./components/|- CALLGATE_WORKLOAD_ISSUER=).*)$"
    uncommented, count = re.subn(lines, r"\1\2", file.read_text(), flags=re.MULTILINE)
    assert count == 3
    file.write_text(uncommented)
    production = render(production_copy)
    assert settings_of(production).workload_issuer == "https://oidc.example.com/cluster"
    assert production.of_kind("ClusterRoleBinding")
    assert not cluster_scoped(production) & cluster_scoped(rendered("dev")), "two installations would share these names"


def test_the_lines_of_the_production_overlay_for_another_port_of_postgres_can_be_uncommented(production_copy: Path) -> None:
    file = production_copy / "kustomization.yaml"
    before, first, patch = file.read_text().partition("  # - target:\n")
    file.write_text(before + (first + patch).replace("  # ", "  "))
    (ports,) = (
        rule["ports"]
        for rule in render(production_copy).named("NetworkPolicy", "callgate")["spec"]["egress"]
        if "to" not in rule
    )
    assert ports == [{"port": 6432}]


def workload_of(service: Manifest) -> str:
    """Returns the name of the workload that a Service selects. The Service callgate-admin selects callgate-api, too."""
    name: str = service["metadata"]["name"]
    return "callgate-api" if name == "callgate-admin" else name


def test_every_selector_selects_exactly_the_pods_of_its_workload(overlay: Manifests) -> None:
    pods = {workload["metadata"]["name"]: labels(workload) for workload in overlay.workloads()}
    for workload in overlay.of_kind("Deployment") + overlay.of_kind("StatefulSet"):
        selected = [name for name, pod_labels in pods.items() if matches(workload["spec"]["selector"], pod_labels)]
        assert selected == [workload["metadata"]["name"]]
        for spread in pod(workload).get("topologySpreadConstraints", []):
            assert matches(spread["labelSelector"], labels(workload))
    for service in overlay.of_kind("Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        assert [name for name, pod_labels in pods.items() if matches(selector, pod_labels)] == [workload_of(service)]
    for budget in overlay.of_kind("PodDisruptionBudget"):
        selected = [name for name, pod_labels in pods.items() if matches(budget["spec"]["selector"], pod_labels)]
        assert selected == [budget["metadata"]["name"]]
    for policy in overlay.of_kind("NetworkPolicy"):
        assert any(matches(policy["spec"]["podSelector"], pod_labels) for pod_labels in pods.values()), policy["metadata"][
            "name"
        ]


def test_every_service_targets_a_port_of_its_pods(manifests: Manifests) -> None:
    for service in manifests.of_kind("Service"):
        (workload,) = (each for each in manifests.workloads() if each["metadata"]["name"] == workload_of(service))
        ports = {port["name"] for port in container(workload)["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports


def test_only_the_autoscaler_sets_the_replicas_of_the_api(manifests: Manifests) -> None:
    (autoscaler,) = manifests.of_kind("HorizontalPodAutoscaler")
    scaled = manifests.named("Deployment", autoscaler["spec"]["scaleTargetRef"]["name"])
    assert command(scaled)[0] == "serve"
    assert "replicas" not in scaled["spec"], "every apply would undo what the autoscaler has found"


def test_callgate_accepts_its_arguments_and_listens_on_the_probed_ports(manifests: Manifests) -> None:
    for workload in manifests.of_callgate():
        name, parameters = command(workload)
        if name in ("migrate", "apply", "sleep"):
            assert "ports" not in container(workload)
            continue
        assert parameters["host"] == "0.0.0.0"
        listening = {"http": parameters.get("port"), "ops": parameters.get("ops_port")}
        assert ports_of(workload) == {port: number for port, number in listening.items() if number}
        probes = {kind: container(workload)[kind]["httpGet"] for kind in PROBES if kind in container(workload)}
        assert {"livenessProbe", "readinessProbe"} <= probes.keys()
        for probe in probes.values():
            assert probe["port"] == ("http" if name == "simulator" else "ops")
            assert probe["path"] in paths_of(name)


def test_liveness_does_not_use_postgres_and_readiness_has_a_long_timeout(manifests: Manifests) -> None:
    for workload in manifests.of_callgate():
        if command(workload)[0] in ("serve", "worker"):
            for kind in ("startupProbe", "livenessProbe"):
                assert container(workload)[kind]["httpGet"]["path"] == "/livez"
            readiness = container(workload)["readinessProbe"]
            assert readiness["httpGet"]["path"] == "/readyz"
            assert readiness["timeoutSeconds"] > READY_TIMEOUT_S


def test_grace_periods_are_longer_than_the_work_in_progress(overlay: Manifests) -> None:
    settings = settings_of(overlay)
    for workload in overlay.of_callgate():
        grace = pod(workload).get("terminationGracePeriodSeconds", 30)
        if command(workload)[0] == "serve":
            assert "lifecycle" not in container(workload), "CALLGATE_LINGER does it, for open connections too"
            assert settings.linger >= 5
            assert settings.drain_timeout >= settings.request_budget
            assert grace > settings.linger + settings.drain_timeout + DRAIN_COMMIT_TIMEOUT_S
        elif command(workload)[0] == "worker":
            assert grace > 2 * dial_time_budget(settings).attempt_s + DRAIN_COMMIT_TIMEOUT_S


def test_a_roll_out_keeps_each_pod_until_its_successor_is_ready(manifests: Manifests) -> None:
    for name in ("callgate-api", "callgate-worker"):
        rolling = manifests.named("Deployment", name)["spec"]["strategy"]["rollingUpdate"]
        assert rolling["maxUnavailable"] == 0
        assert rolling["maxSurge"] > 0


def test_a_roll_out_may_take_longer_than_the_migration_for_which_it_waits(manifests: Manifests) -> None:
    migration = manifests.named("Job", "callgate-migrate")["spec"]["activeDeadlineSeconds"]
    for name in ("callgate-api", "callgate-worker"):
        assert manifests.named("Deployment", name)["spec"]["progressDeadlineSeconds"] > migration


def test_the_job_for_declared_tenants_is_tried_until_the_migration_must_have_ended() -> None:
    apply = rendered("declared").named("Job", "callgate-apply")["spec"]
    migration = rendered("declared").named("Job", "callgate-migrate")["spec"]["activeDeadlineSeconds"]
    delays = [min(10 * 2**failure, MAX_JOB_BACKOFF_S) for failure in range(apply["backoffLimit"])]
    assert sum(delays) >= apply["activeDeadlineSeconds"] > migration
    assert apply["activeDeadlineSeconds"] > migration + MAX_JOB_BACKOFF_S
    guide = (REPOSITORY / "docs/administration.md").read_text()
    assert f"job/callgate-apply --timeout={apply['activeDeadlineSeconds'] // 60}m\n" in guide


def connections_at_most(manifests: Manifests) -> dict[str, int]:
    """Returns the most connections to Postgres of all pods of the API and of all workers, during a roll-out, too."""
    pools = settings_of(manifests).database_pool_size + MAX_STATEMENT_CONNECTIONS
    (autoscaler,) = manifests.of_kind("HorizontalPodAutoscaler")
    workers = manifests.named("Deployment", "callgate-worker")["spec"]["replicas"]
    # The API listens on one channel. A worker listens on two, and its probes have a connection of their own.
    return {"api": autoscaler["spec"]["maxReplicas"] * (pools + 1), "worker": workers * (pools + 3), "roll-out": 2 * pools + 4}


def test_the_postgres_of_the_dev_overlay_has_connections_for_all_pods() -> None:
    (postgres,) = rendered("dev").of_kind("StatefulSet")
    (allowed,) = re.findall(r"max_connections=(\d+)", " ".join(container(postgres)["args"]))
    assert sum(connections_at_most(rendered("dev")).values()) < int(allowed) - SUPERUSER_RESERVED_CONNECTIONS


def test_the_documented_number_of_connections_is_that_of_the_production_overlay() -> None:
    text = " ".join((REPOSITORY / "docs/operations.md").read_text().split())
    found = re.search(r"12 pods of the API and 2 workers .* (\d+) at worst, and (\d+) more during a roll-out", text)
    assert found
    number = connections_at_most(rendered("production"))
    assert [int(each) for each in found.groups()] == [number["api"] + number["worker"], number["roll-out"]]


def test_every_named_setting_exists_and_is_valid(manifests: Manifests) -> None:
    known = {SETTING_PREFIX + name.upper() for name in Settings.model_fields}
    for document in manifests.documents:
        assert set(named_settings(document)) <= known
    if manifests.of_kind("ConfigMap"):
        assert settings_of(manifests)


def test_secrets_are_mounted_where_settings_read_them_for_each_workload(manifests: Manifests) -> None:
    for workload in manifests.of_callgate():
        name, _ = command(workload)
        mounts = {mount["name"]: mount for mount in container(workload)["volumeMounts"]}
        if name == "simulator":
            assert "secrets" not in mounts
            continue
        assert mounts["secrets"]["mountPath"] == str(SECRETS_DIR)
        (secret,) = (volume["secret"] for volume in pod(workload)["volumes"] if volume["name"] == "secrets")
        assert secret["secretName"] == "callgate"
        files = {item["path"] for item in secret.get("items", [])} or SECRET_FILES
        assert files == ({"callgate_database_url"} if name == "migrate" else SECRET_FILES)
        assert files <= {SETTING_PREFIX.lower() + field for field in Settings.model_fields}


def test_manifests_contain_no_secret(overlay: Manifests) -> None:
    assert overlay.of_kind("Secret") == []
    config = config_of(overlay)
    fields = {name: Settings.model_fields[name.removeprefix(SETTING_PREFIX).lower()].annotation for name in config["data"]}
    assert [name for name, kind in fields.items() if "SecretStr" in str(kind)] == []


def test_every_pod_meets_the_restricted_profile(overlay: Manifests) -> None:
    (namespace,) = overlay.of_kind("Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for workload in overlay.workloads():
        security = pod(workload)["securityContext"]
        assert security["runAsNonRoot"] is True
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container(workload)["securityContext"]
        assert own == {
            "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
        }  # fmt: skip
        assert pod(workload)["automountServiceAccountToken"] is False


def test_pods_of_callgate_run_as_the_user_of_the_image(manifests: Manifests) -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)[-1]
    for workload in manifests.of_callgate():
        security = pod(workload)["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (int(user), int(group))


def test_writable_volumes_are_in_memory_and_limited_in_size(manifests: Manifests) -> None:
    for workload in manifests.of_callgate():
        written = {mount["name"]: mount for mount in container(workload)["volumeMounts"] if not mount.get("readOnly")}
        assert [mount["mountPath"] for mount in written.values()] == ["/tmp"]  # noqa: S108  # in a container
        volumes = {volume["name"]: volume for volume in pod(workload)["volumes"]}
        assert volumes[written.popitem()[0]]["emptyDir"]["sizeLimit"]


def test_every_container_has_resource_requests_and_limits(overlay: Manifests) -> None:
    for workload in overlay.workloads():
        resources = container(workload)["resources"]
        assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}


def test_every_pod_has_network_policies_in_both_directions(overlay: Manifests) -> None:
    for workload in overlay.workloads():
        covered = {
            direction
            for policy in overlay.of_kind("NetworkPolicy")
            if matches(policy["spec"]["podSelector"], labels(workload))
            for direction in policy["spec"]["policyTypes"]
        }
        assert covered == {"Ingress", "Egress"}, workload["metadata"]["name"]


def test_only_monitoring_and_administration_can_reach_the_operations_port(overlay: Manifests) -> None:
    """Checks the network policies. They are needed because most routes of the operations port require no API key."""
    admins = {"namespaceSelector": {"matchLabels": {"callgate-admin": "true"}}}
    observers = {"namespaceSelector": {"matchLabels": {"callgate-observer": "true"}}}
    for workload in (each for each in overlay.of_callgate() if command(each)[0] in ("serve", "worker")):
        ops_port = ports_of(workload)["ops"]
        rules = [
            rule
            for policy in overlay.of_kind("NetworkPolicy")
            if matches(policy["spec"]["podSelector"], labels(workload))
            for rule in policy["spec"].get("ingress", [])
        ]
        assert all(rule["ports"] for rule in rules), "a rule without ports opens them all"
        let_in = [rule["from"] for rule in rules if ops_port in [port["port"] for port in rule["ports"]]]
        assert let_in == ([[observers], [admins]] if command(workload)[0] == "serve" else [[observers]])
        for rule in rules:
            if observers in rule["from"] or admins in rule["from"]:
                assert [port["port"] for port in rule["ports"]] == [ops_port]
    services = {service["metadata"]["name"]: service["spec"]["ports"] for service in overlay.of_kind("Service")}
    assert [name for name, ports in services.items() if "ops" in {port["targetPort"] for port in ports}] == ["callgate-admin"]


def test_prometheus_scrapes_the_operations_ports_of_all_installations_but_a_trial(manifests: Manifests) -> None:
    is_trial = any(command(workload)[0] == "simulator" for workload in manifests.of_callgate())
    for workload in manifests.of_callgate():
        annotations = workload["spec"]["template"]["metadata"].get("annotations", {})
        scraped_port = annotations.get("prometheus.io/port") if annotations.get("prometheus.io/scrape") == "true" else None
        if is_trial or command(workload)[0] not in ("serve", "worker"):
            assert scraped_port is None
        else:
            assert scraped_port == str(ports_of(workload)["ops"])


def test_no_pod_can_reach_a_clouds_metadata_service(overlay: Manifests) -> None:
    blocks = [
        peer["ipBlock"]
        for policy in overlay.of_kind("NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "2000::/3"}
    assert all("169.254.0.0/16" in block["except"] for block in blocks if block["cidr"] == "0.0.0.0/0")


def test_the_ingress_admits_only_twilios_callbacks() -> None:
    (ingress,) = rendered("production").of_kind("Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (path["path"], path["pathType"]) == (CALLBACK_PATH, "Prefix")
    assert path["backend"]["service"]["name"] == "callgate-api"
    assert settings_of(rendered("production")).public_url == f"https://{rule['host']}"
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    assert rendered("dev").of_kind("Ingress") == []


def test_the_dev_overlay_connects_callgate_and_simulator_in_both_directions() -> None:
    settings = settings_of(rendered("dev"))
    ports = {service["metadata"]["name"]: service["spec"]["ports"][0]["port"] for service in rendered("dev").of_kind("Service")}
    assert settings.twilio_base_url == f"http://simulator:{ports['simulator']}"
    assert (settings.public_url, ports["callgate-api"]) == ("http://callgate-api", 80)


def test_the_pod_for_commands_starts_on_demand_and_nothing_restarts_it(manifests: Manifests) -> None:
    cli = manifests.named("Deployment", "callgate-cli")
    assert cli["spec"]["replicas"] == 0
    assert [kind for kind in PROBES if kind in container(cli)] == []
    worker = manifests.named("Deployment", "callgate-worker")
    assert [container(cli)[member] for member in ("image", "envFrom")] == [container(worker)[m] for m in ("image", "envFrom")]


def test_the_guides_name_only_workloads_that_exist() -> None:
    guides = "".join(page.read_text() for page in (REPOSITORY / "docs").glob("*.md"))
    known = {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in rendered("declared").workloads()}
    named = set(re.findall(r"\b(?:deployment|job)/[a-z-]+", guides))
    assert "deployment/callgate-cli" in named
    assert named <= known


def test_the_pod_for_commands_reaches_postgres_and_the_simulator_of_the_dev_overlay() -> None:
    cli = labels(rendered("dev").named("Deployment", "callgate-cli"))
    let_in = {
        (pod_labels["app.kubernetes.io/name"], port["port"])
        for workload in rendered("dev").workloads()
        for policy in rendered("dev").of_kind("NetworkPolicy")
        if matches(policy["spec"]["podSelector"], pod_labels := labels(workload))
        for rule in policy["spec"].get("ingress", [])
        if any(matches(peer["podSelector"], cli) for peer in rule["from"] if "podSelector" in peer)
        for port in rule["ports"]
    }
    assert let_in >= {("postgres", 5432), ("simulator", 8010)}


def test_the_api_and_doctor_read_the_key_set_with_files_that_are_mounted() -> None:
    overlay = rendered("dev")
    settings = settings_of(overlay)
    for workload in overlay.of_callgate():
        mounts = {mount["name"]: mount["mountPath"] for mount in container(workload)["volumeMounts"]}
        if command(workload)[0] not in ("serve", "sleep"):
            assert "kubernetes" not in mounts
            continue
        (sources,) = (volume["projected"]["sources"] for volume in pod(workload)["volumes"] if volume["name"] == "kubernetes")
        token, ca = sources[0]["serviceAccountToken"], sources[1]["configMap"]
        assert "audience" not in token  # for the API server
        assert settings.workload_keys_token_file == Path(mounts["kubernetes"]) / token["path"]
        assert settings.workload_keys_ca_file == Path(mounts["kubernetes"]) / ca["items"][0]["path"]
    (binding,) = overlay.of_kind("ClusterRoleBinding")
    (namespace,) = overlay.of_kind("Namespace")
    assert binding["subjects"][0]["namespace"] == namespace["metadata"]["name"]


def test_the_example_of_a_client_sends_a_token_that_callgate_accepts() -> None:
    documents = list(yaml.safe_load_all((REPOSITORY / "deploy" / "examples" / "client.yaml").read_text()))
    example = Manifests(documents)
    (client,) = example.workloads()
    (volume,) = pod(client)["volumes"]
    token = volume["projected"]["sources"][0]["serviceAccountToken"]
    assert token["audience"] == Settings.model_fields["workload_audience"].default
    assert token["expirationSeconds"] <= MAX_TOKEN_LIFETIME_S
    (mount,) = container(client)["volumeMounts"]
    assert f"{mount['mountPath']}/{token['path']}" in container(client)["args"][0]
    (admitted,) = example.of_kind("Namespace")
    assert admitted["metadata"]["labels"]["callgate-client"] == "true"


def test_the_example_of_an_ingress_passes_the_console_and_its_help_on_to_the_service() -> None:
    file = REPOSITORY / "deploy" / "examples" / "console-ingress.yaml"
    ingress = yaml.safe_load(file.read_text())
    (rule,) = ingress["spec"]["rules"]
    assert [path["path"] for path in rule["http"]["paths"]] == [CONSOLE_PREFIX, "/docs"]
    assert ingress["spec"]["tls"][0]["hosts"] == [rule["host"]]
    production = rendered("production")
    (namespace,) = production.of_kind("Namespace")
    assert ingress["metadata"]["namespace"] == namespace["metadata"]["name"]
    for path in rule["http"]["paths"]:
        backend = path["backend"]["service"]
        ports = production.named("Service", backend["name"])["spec"]["ports"]
        assert [(port["name"], port["targetPort"]) for port in ports] == [(backend["port"]["name"], "ops")]
    assert "callgate-admin=true" in file.read_text()


def test_every_exception_for_checkov_is_explained() -> None:
    lines = (REPOSITORY / "deploy" / "checkov.yaml").read_text().split("skip-check:\n")[1].splitlines()
    reasons = 0
    for line in lines:
        if line.strip().startswith("#"):
            reasons += 1
        else:
            assert re.fullmatch(r"  - CKV_\w+", line)
            assert reasons
