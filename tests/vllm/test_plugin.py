"""How vLLM finds the plugin, and when the plugin stays out of the way."""

import logging
import os
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
import torch

import torch_openreg.vllm as plugin


@pytest.fixture
def said(monkeypatch):
    """What the plugin logs."""
    lines = []
    logger = logging.getLogger("vllm.torch_openreg")
    monkeypatch.setattr(logger, "warning", lambda form, *args: lines.append(form % args))
    return lines


def test_entry_point(said):
    (entry,) = [e for e in entry_points(group="vllm.platform_plugins") if e.name == "openreg"]
    assert entry.load() is plugin.register
    assert plugin.register() == "torch_openreg.vllm.platform.OpenRegPlatform"
    assert said == []


@pytest.mark.parametrize("found", ["0.31.2", "0.33.0+cpu"])
def test_another_vllm(found, said, monkeypatch):
    monkeypatch.setattr(plugin, "version", lambda name: found)
    assert plugin.register() is None
    (line,) = said
    assert "needs vLLM 0.32.0" in line and found.partition("+")[0] in line


def test_no_device(said, monkeypatch):
    monkeypatch.setattr(torch.openreg, "device_count", lambda: 0)
    assert plugin.register() is None
    assert "OPENREG_DEVICE_COUNT" in said[0]


@pytest.mark.parametrize("plugins, device", [(None, "openreg"), ("", ""), ("openreg", "openreg")])
def test_switch(plugins, device):
    environment = {k: v for k, v in os.environ.items() if k != "VLLM_PLUGINS"}
    if plugins is not None:
        environment["VLLM_PLUGINS"] = plugins
    code = "from vllm.platforms import current_platform as p; print(repr(p.device_type))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == repr(device)
