"""The command `device`, on whole, partial and absent backends."""

import sys
from pathlib import Path

import pytest

from torch_openreg.testing.bringup import diagnosis, guide
from torch_openreg.testing.bringup.all_steps import STEPS
from torch_openreg.testing.cli import main
from torch_openreg.testing.results import Report

_DOCS = Path(__file__).parents[2] / "docs"

# A name and an empty module: what a vendor has on the first day.
_BARE = """
import types
import torch

torch.utils.rename_privateuse1_backend("acme")
torch._register_device_module("acme", types.ModuleType("torch.acme"))
"""

# openreg with some of it broken.
_BROKEN = """
import ctypes
import os
import torch
import torch_openreg

module = torch.openreg
del module.manual_seed_all
module.get_device_properties = None


class Event(torch.Event):
    def elapsed_time(self, other):
        raise RuntimeError("Backend doesn't support elapsedTime.")


torch.Event = Event

kernels = torch.library.Library("aten", "IMPL")


def flip(x, dims):
    ctypes.string_at(0)


def tril(x, diagonal=0):
    return x.clone()


kernels.impl("flip", flip, "PrivateUse1")
kernels.impl("tril", tril, "PrivateUse1")
"""


@pytest.fixture
def conformance(tmp_path, monkeypatch, capsys):
    """Run `device` with a backend's source; return (results by step, exit status, output)."""

    def run(*arguments, backend=None):
        if backend is not None:
            (tmp_path / "acme_backend.py").write_text(backend)
            monkeypatch.setenv("PYTHONPATH", str(tmp_path))
            arguments += ("--module", "acme_backend")
        status = main(["device", "--output", str(tmp_path / "out"), *arguments])
        report = Report.load(tmp_path / "out" / "report.json")
        return {r.name: r for r in report.results}, status, capsys.readouterr().out

    return run


def test_openreg_passes(conformance):
    results, status, output = conformance("--device", "openreg")
    assert status == 0, output
    assert set(results) == set(STEPS)
    skipped = {name for name, result in results.items() if result.status == "skipped"}
    assert skipped <= {name for name, step in STEPS.items() if step.optional}
    assert "ok       transformer-decoding" in output


def test_the_cpu_skips_what_it_cannot_have(conformance):
    results, status, _ = conformance("--device", "cpu", "--steps", "streams,events,reductions,fill")
    assert status == 0
    assert results["stream-wait"].message == "on the CPU: the CPU has no streams"
    assert {n for n, r in results.items() if r.status == "passed"} == {"reductions", "fill"}


def test_a_bare_backend(conformance):
    """Nothing is there, and each step says what is missing; none stops the others."""
    results, status, output = conformance(
        "--device", "acme", "--steps", "import-module,import-methods,module-names,devices,"
        "allocate,copy-host,pinned-memory,allocator-statistics,stream-current,random-generator,"
        "autocast,graphs,backward",
        backend=_BARE,
    )  # fmt: skip
    assert status == 1
    missing = {name: result.extra["missing"] for name, result in results.items()}
    guard = "c10::impl::DeviceGuardImplInterface, registered with C10_REGISTER_GUARD_IMPL"
    hooks = "at::PrivateUse1HooksInterface, registered with at::RegisterPrivateUse1HooksInterface"
    assert results["import-module"].status == "passed"
    assert results["import-methods"].status == "failed"
    assert "torch.acme.current_stream" in missing["module-names"]
    assert missing["device-count"] == ["torch.acme.is_available", "torch.acme.device_count"]
    assert missing["allocate"] == ["aten::empty.memory_format"]
    assert missing["copy-host"] == ["aten::empty_strided", "aten::_copy_from"]
    assert missing["pinned-memory"] == [hooks]
    assert missing["allocator-statistics"] == ["c10::DeviceAllocator, set with c10::SetAllocator"]
    assert missing["stream-current"] == [guard]
    assert missing["random-generator"] == [hooks]
    assert "torch.acme.get_amp_supported_dtype" in missing["autocast"]
    assert results["graphs"].status == "skipped"
    assert results["graphs"].message.startswith("optional, and not provided: ")
    assert "missing: aten::empty.memory_format (NotImplementedError" in output
    assert "see docs/bring-up.md#allocate" in output
    assert "Register `aten::empty.memory_format`" in results["allocate"].detail


def test_a_broken_backend(conformance):
    """What is broken fails, names the cause, and takes nothing else with it."""
    results, status, output = conformance(
        "--device", "openreg", "--steps", "module-names,device-properties,events,random-seed,"
        "fill,indexing,attention",
        backend=_BROKEN,
    )  # fmt: skip
    assert status == 1
    assert results["random-seed"].status == "failed"
    assert "torch.openreg.manual_seed_all" in results["random-seed"].extra["missing"]
    assert results["module-names"].extra["missing"] == [
        "torch.openreg.manual_seed_all",
        "torch.openreg.get_device_properties",
    ]
    assert results["device-properties"].extra["missing"] == ["torch.openreg.get_device_properties"]
    assert results["event-record"].status == "passed"
    assert results["event-elapsed-time"].extra["missing"] == [
        "c10::impl::DeviceGuardImplInterface::elapsedTime"
    ]
    assert results["fill"].message.startswith("AssertionError: tril: ")
    crashed = results["indexing"]
    assert (crashed.status, crashed.message) == ("crashed", "killed by SIGSEGV")
    assert "aten::index.Tensor" in crashed.detail
    assert results["attention"].status == "passed"
    assert crashed.reproduce.endswith(
        "device --device openreg --module acme_backend --steps indexing"
    )
    assert "CRASHED  indexing" in output


def test_a_backend_that_cannot_be_imported(conformance):
    results, status, _ = conformance(
        "--device", "acme", "--steps", "import-module,fill", backend="raise OSError('no driver')"
    )
    assert status == 1
    assert {result.message for result in results.values()} == {"OSError: no driver"}


def test_list_and_wrong_steps(capsys):
    assert main(["device", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STEPS)
    assert main(["device", "--steps", "no-such-step"]) == 2
    assert "'no-such-step' is no step and no part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("message", "name"),
    [
        (
            "Could not run 'aten::mm' with arguments from the 'openreg' backend.",
            "aten::mm",
        ),
        (
            "Could not run 'aten::_nnz' with arguments from the 'Sparseopenreg' backend.",
            "aten::_nnz for the dispatch key SparsePrivateUse1",
        ),
        (
            "You should register `PrivateUse1HooksInterface`by `RegisterPrivateUse1HooksInterface` "
            "and implement `getDefaultGenerator` at the same time for PrivateUse1.",
            "at::PrivateUse1HooksInterface::getDefaultGenerator",
        ),
        (
            "Backend doesn't support getDeviceFromPtr()",
            "at::PrivateUse1HooksInterface::getDeviceFromPtr",
        ),
        (
            "Backend doesn't support create a new Stream.",
            "c10::impl::DeviceGuardImplInterface::getNewStream",
        ),
        ("module 'torch.openreg' has no attribute 'Stream'", "torch.openreg.Stream"),
    ],
)
def test_diagnosis_of_messages(message, name):
    import torch_openreg  # noqa: F401

    assert diagnosis.missing(RuntimeError(message), "openreg", ()) == [name]


def test_diagnosis_looks_up_what_is_needed():
    import torch_openreg  # noqa: F401

    needs = ("torch.{device}.no_such_name", "torch.{device}.Stream", "aten::mm", "c10::Allocator")
    assert diagnosis.missing(None, "openreg", needs) == ["torch.openreg.no_such_name"]


def test_steps_say_what_to_provide():
    for step in STEPS.values():
        title, _, advice = step.text.partition("\n\n")
        assert title.endswith("."), step.name
        assert len(advice) > 40, step.name


def test_the_page_is_up_to_date():
    assert (_DOCS / "bring-up.md").read_text() == guide.page(), (
        f"write it with {Path(sys.executable).name} -m torch_openreg.testing.bringup.guide "
        "docs/bring-up.md"
    )
