"""The names of OpenTelemetry's API that a call without a provider leans on."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from clients._shared.telemetry import is_enabled

_SCRIPT = """
import sys
from clients._shared.telemetry import is_enabled
assert not any(name.startswith("opentelemetry") for name in sys.modules)
assert not is_enabled()
from opentelemetry import metrics, trace
assert trace._TRACER_PROVIDER is None
assert sys.modules["opentelemetry.metrics._internal"]._METER_PROVIDER is None
assert not is_enabled()
{set_it}
assert is_enabled()
"""
_TRACER = "trace.set_tracer_provider(trace.NoOpTracerProvider())"
_METER = "metrics.set_meter_provider(metrics.NoOpMeterProvider())"


def test_a_provider_that_is_set_is_seen_and_none_before() -> None:
    """Telemetry imports nothing by itself, and notices either provider when it comes."""
    for set_it in (_TRACER, _METER):
        script = _SCRIPT.format(set_it=set_it)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )

        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", ["opentelemetry.trace", "opentelemetry.metrics._internal"])
def test_a_package_that_is_being_imported_has_no_provider_yet(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A call in another thread is not recorded, and does not fail."""
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert not is_enabled()
