"""docker-compose.yml says what the docs promise: it parses, and its brokers are set as a log needs them. No Docker needed."""

from __future__ import annotations

from pathlib import Path

import yaml

import brokers
from ctxlog.cli.projector import projector_command, run_command
from ctxlog.log.kafka.location import Location
from ctxlog.wiring import views_folder

COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text("utf-8"))
SERVICES = COMPOSE["services"]


def test_every_service_has_a_health_check_and_listens_on_this_machine_alone() -> None:
    for service in SERVICES.values():
        assert service["healthcheck"]["test"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_one_broker_and_a_registry_start_by_default() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"kafka", "registry"}


def test_three_brokers_hold_three_copies_and_elect_no_leader_that_lacks_some() -> None:
    production = [service for service in SERVICES.values() if service.get("profiles") == ["production"]]
    assert [service["environment"]["KAFKA_NODE_ID"] for service in production] == [1, 2, 3]
    for service in production:
        settings = service["environment"]
        assert (settings["KAFKA_DEFAULT_REPLICATION_FACTOR"], settings["KAFKA_MIN_INSYNC_REPLICAS"]) == (3, 2)
        assert settings["KAFKA_UNCLEAN_LEADER_ELECTION_ENABLE"] == "false"
        assert settings["KAFKA_AUTO_CREATE_TOPICS_ENABLE"] == "false"


def test_brokers_are_of_the_version_that_is_tested_and_keep_their_data() -> None:
    for name, service in SERVICES.items():
        if name.startswith("kafka"):
            assert service["image"] == f"apache/kafka:{brokers.VERSION}"
            assert service["volumes"] == [f"{name}:/var/lib/kafka/data"]
            assert name in COMPOSE["volumes"]


def test_the_projector_runs_this_checkout_on_the_broker_that_starts_by_default() -> None:
    projector = SERVICES["projector"]
    assert projector["profiles"] == ["projector"]
    assert projector["depends_on"] == {"kafka": {"condition": "service_healthy"}}
    listeners = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    assert f"INTERNAL://{Location.parse(projector['environment']['CTXLOG_URL']).servers}" in listeners
    assert projector["volumes"] == [".:/src:ro", f"./{views_folder('kafka://localhost:9092')}:/views"]


def test_the_projectors_command_is_one_that_there_is() -> None:
    shell, flag, command = SERVICES["projector"]["command"]
    assert (shell, flag) == ("sh", "-c")
    install, run = command.split(" && ")
    assert install.split()[:2] == ["pip", "install"]
    assert install.endswith(" /src")
    exec_, program, *arguments = run.split()
    assert (exec_, program) == ("exec", "ctxlog")
    with projector_command.make_context("projector", arguments[1:2]) as context:
        found = run_command.make_context("run", arguments[2:], parent=context)
    assert arguments[:2] == ["projector", "run"]
    assert found.params["views"] == Path("/views")
    port = found.params["metrics_port"]
    assert f"http://127.0.0.1:{port}/metrics" in SERVICES["projector"]["healthcheck"]["test"][-1]
