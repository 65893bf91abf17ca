"""Every way in which Dagster code comes by a resource; each reads one secret's ``url``."""
# Without `from __future__ import annotations`: it breaks ResourceDependency.

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg

from clients.dagster_adapter import VaultSecretsResource, vault_secrets_resource

__all__ = ["ENTRY_POINTS", "PATH", "nesting"]

PATH = "app/db"
VARIABLES = {
    "vault_addr": {"env": "VAULT_ADDR"},
    "role_id": {"env": "VAULT_ROLE_ID"},
    "secret_id": {"env": "VAULT_SECRET_ID"},
}


@dg.asset
def url(vault: VaultSecretsResource) -> str:
    return str(vault.get_secret(PATH)["url"])


@dg.op(required_resource_keys={"vault"})
def url_by_key(context: dg.OpExecutionContext) -> str:
    return str(context.resources.vault.get_secret(PATH)["url"])


@dg.sensor(job_name="any_job")
def url_sensor(vault: VaultSecretsResource) -> dg.SkipReason:
    return dg.SkipReason(vault.get_secret(PATH)["url"])


@dg.schedule(job_name="any_job", cron_schedule="@daily")
def url_schedule(vault: VaultSecretsResource) -> dg.SkipReason:
    return dg.SkipReason(vault.get_secret(PATH)["url"])


@dg.asset_check(asset=url)
def url_check(vault: VaultSecretsResource) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=vault.health_check(), metadata={"url": vault.get_secret(PATH)["url"]}
    )


class Repository(dg.ConfigurableResource[Any]):
    """A resource of a user's that has ours inside."""

    vault: dg.ResourceDependency[VaultSecretsResource]

    def url(self) -> str:
        return str(self.vault.get_secret(PATH)["url"])


@dg.asset
def nested_url(vault: VaultSecretsResource, repository: Repository) -> str:
    assert repository.url() == vault.get_secret(PATH)["url"]
    return repository.url()


def _materialized(asset: dg.AssetsDefinition, resources: dict[str, Any], **options: Any) -> str:
    done = dg.materialize_to_memory([asset], resources=resources, **options)
    return str(done.output_for_node(asset.op.name))


def _in_a_context(vault: VaultSecretsResource) -> str:
    return str(url(dg.build_asset_context(resources={"vault": vault})))


def _in_an_entered_context(vault: VaultSecretsResource) -> str:
    with dg.build_asset_context(resources={"vault": vault}) as context:
        return str(url(context))


def _sensor_in_a_context(vault: VaultSecretsResource) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance, resources={"vault": vault})
        return _reason(url_sensor(context))


def _sensor_tick(vault: VaultSecretsResource) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_sensor_context(instance, resources={"vault": vault})
        return url_sensor.evaluate_tick(context).skip_message or ""


def _schedule_tick(vault: VaultSecretsResource) -> str:
    with dg.DagsterInstance.ephemeral() as instance:
        context = dg.build_schedule_context(instance, resources={"vault": vault})
        return url_schedule.evaluate_tick(context).skip_message or ""


def _built(vault: VaultSecretsResource) -> str:
    with dg.build_resources({"vault": vault}) as resources:
        return str(resources.vault.get_secret(PATH)["url"])


def _initialised(vault: VaultSecretsResource) -> str:
    return str(vault.process_config_and_initialize().get_secret(PATH)["url"])


def _from_a_resource_context(vault: VaultSecretsResource) -> str:
    context = dg.build_init_resource_context(config=_values(vault))
    return str(VaultSecretsResource.from_resource_context(context).get_secret(PATH)["url"])


def _legacy_called(vault: VaultSecretsResource) -> str:
    context = dg.build_init_resource_context(config=_values(vault))
    made: Any = vault_secrets_resource(context)
    return str(made.get_secret(PATH)["url"])


def _legacy_configured(_vault: VaultSecretsResource) -> str:
    return _materialized(url, {"vault": vault_secrets_resource.configured(VARIABLES)})


def _legacy_by_key(_vault: VaultSecretsResource) -> str:
    configured = vault_secrets_resource.configured(VARIABLES)

    @dg.job(resource_defs={"vault": configured})
    def reads() -> None:
        url_by_key()

    return str(reads.execute_in_process().output_for_node("url_by_key"))


def _run_config(_vault: VaultSecretsResource) -> str:
    return _materialized(
        url,
        {"vault": VaultSecretsResource.configure_at_launch()},
        run_config={"resources": {"vault": {"config": VARIABLES}}},
    )


@contextmanager
def nesting() -> Iterator[None]:
    """Ignore that Dagster 1.13 calls a method that it deprecates, for each nested resource."""
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", r"InitResourceContext\.dagster_run is deprecated", DeprecationWarning
        )
        yield


def _nested(vault: VaultSecretsResource) -> str:
    with nesting():
        return _materialized(nested_url, {"vault": vault, "repository": Repository(vault=vault)})


def _check(vault: VaultSecretsResource) -> str:
    done = dg.materialize([url, url_check], resources={"vault": vault})
    (evaluation,) = done.get_asset_check_evaluations()
    assert evaluation.passed
    return str(evaluation.metadata["url"].value)


def _values(vault: VaultSecretsResource) -> dict[str, Any]:
    variables: dict[str, Any] = {name: getattr(vault, name) for name in VARIABLES}
    return {name: variable.get_value() for name, variable in variables.items()}


def _reason(answer: Any) -> str:
    return str(answer.skip_message)


ENTRY_POINTS: dict[str, Callable[[VaultSecretsResource], str]] = {
    "bare": lambda vault: str(vault.get_secret(PATH)["url"]),
    "asset called": lambda vault: str(url(vault=vault)),
    "asset called in a context": _in_a_context,
    "asset called in an entered context": _in_an_entered_context,
    "materialize": lambda vault: _materialized(url, {"vault": vault}),
    "asset check": _check,
    "build_resources": _built,
    "process_config_and_initialize": _initialised,
    "from_resource_context": _from_a_resource_context,
    "sensor called": lambda vault: _reason(url_sensor(dg.build_sensor_context(), vault=vault)),
    "sensor called in a context": _sensor_in_a_context,
    "sensor tick": _sensor_tick,
    "schedule called": lambda vault: _reason(
        url_schedule(dg.build_schedule_context(), vault=vault)
    ),
    "schedule tick": _schedule_tick,
    "legacy called": _legacy_called,
    "legacy configured": _legacy_configured,
    "legacy by resource key": _legacy_by_key,
    "run config": _run_config,
    "nested": _nested,
}
