"""The command `suite`, on small test files written as PyTorch's own are."""

import json
import textwrap

import pytest

from torch_openreg.testing.cli import main
from torch_openreg.testing.results import Report
from torch_openreg.testing.suite import drift, names
from torch_openreg.testing.suite.drift import Gone
from torch_openreg.testing.suite.filerun import FileRun, Plan
from torch_openreg.testing.suite.skips import SkipList
from torch_openreg.testing.workers import Outcome

_FILE = """
import os
import time
import unittest

import torch
from torch.testing._internal.common_device_type import dtypes, instantiate_device_type_tests, ops
from torch.testing._internal.common_device_type import deviceCountAtLeast, onlyCPU
from torch.testing._internal.common_dtype import a_list_that_is_gone
from torch.testing._internal.common_utils import TestCase, a_decorator_that_is_gone, run_tests


def on_cpu(device):
    return torch.device(device).type == "cpu"


class TestSmall(TestCase):
    @dtypes(torch.float32, torch.int64)
    def test_passes(self, device, dtype):
        self.assertEqual(torch.ones(3, dtype=dtype, device=device).sum().item(), 3)

    def test_fails_on_cpu_too(self, device):
        self.assertEqual(torch.ones(1, device=device).item(), 2)

    def test_fails_on_device(self, device):
        self.assertTrue(on_cpu(device), "only the CPU can do this")

    def test_fails_late(self, device):
        beyond = torch.tensor([7], device=device)
        if not on_cpu(device):
            torch.arange(3, device=device)[beyond]

    def test_fails_the_first_time(self, device):
        marker = os.environ["SUITE_MARKER"]
        if not on_cpu(device) and not os.path.exists(marker):
            open(marker, "w").close()
            self.fail("the first time")

    def test_crashes(self, device):
        if not on_cpu(device):
            os.abort()

    def test_hangs(self, device):
        while not on_cpu(device):
            time.sleep(0.1)

    def test_must_not_run(self, device):
        os._exit(3)

    @onlyCPU
    def test_only_on_cpu(self, device):
        pass

    @deviceCountAtLeast(2)
    def test_two(self, devices):
        self.assertEqual(torch.ones(1, device=devices[1]).device, torch.device(devices[1]))

    @a_decorator_that_is_gone
    def test_uses_what_is_gone(self, device):
        pass

    @ops(a_list_that_is_gone)
    def test_list_is_gone(self, device, dtype, op):
        pass

    @unittest.expectedFailure
    def test_xfail(self, device):
        self.fail("as expected")

    def test_xfail_on_cpu(self, device):
        self.fail("as expected of the CPU")


class TestPlain(TestCase):
    def test_plain(self):
        raise AssertionError("is not device-generic")


instantiate_device_type_tests(TestSmall, globals())
# As an OpInfo says it of one device.
TestSmallCPU.test_xfail_on_cpu_cpu = unittest.expectedFailure(TestSmallCPU.test_xfail_on_cpu_cpu)

if __name__ == "__main__":
    run_tests()
"""

_NEEDS_MODULE = """
import a_module_that_nobody_has
from torch.testing._internal.common_device_type import instantiate_device_type_tests
instantiate_device_type_tests(object, globals())
"""

_LOADS_ON_CPU = """
import os
from torch.testing._internal.common_device_type import instantiate_device_type_tests
from torch.testing._internal.common_utils import TestCase

if "openreg" in os.environ["PYTORCH_TESTING_DEVICE_ONLY_FOR"]:
    raise RuntimeError("the device cannot make this")


class TestLoads(TestCase):
    def test_it(self, device):
        pass


instantiate_device_type_tests(TestLoads, globals())
"""

_SKIPS = """
[[skip]]
file = "test_small.py"
test = "TestSmall.test_must_not_*"
reason = "it ends the process"
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Run all of it once; return (results by name, exit status, output folder)."""
    folder = tmp_path_factory.mktemp("pytorch")
    tests = folder / "test"
    tests.mkdir()
    for name, text in {
        "test_small.py": _FILE,
        "test_needs_module.py": _NEEDS_MODULE,
        "test_loads_on_cpu.py": _LOADS_ON_CPU,
        "test_other.py": "import unittest\n",
    }.items():
        (tests / name).write_text(text)
    (folder / "skips.toml").write_text(_SKIPS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUITE_MARKER", str(folder / "marker"))
        status = main(
            ["suite", "--pytorch", str(folder), "--skip-list", str(folder / "skips.toml"),
             "--timeout", "8", "--output", str(folder / "out")]
        )  # fmt: skip
    report = Report.load(folder / "out" / "report.json")
    return {result.name: result for result in report.results}, status, report


def small(ran, test):
    return ran[0][f"test_small.py::TestSmall.{test}"]


def test_what_passes(ran):
    for test in ("passes_openreg_float32", "passes_openreg_int64", "two_openreg", "xfail_openreg"):
        assert small(ran, f"test_{test}").status == "passed"
    assert small(ran, "test_passes_openreg_int64").dtype == "int64"
    assert small(ran, "test_two_openreg").dtype is None


def test_a_failure_counts_if_the_cpu_passes(ran):
    failure = small(ran, "test_fails_on_device_openreg")
    assert failure.status == "failed"
    assert "only the CPU can do this" in failure.message + failure.detail
    assert failure.extra == {"baseline": "passed", "outcome": "failed"}
    assert "--files test_small.py -k TestSmall.test_fails_on_device_openreg" in failure.reproduce
    assert ran[1] == 1


def test_what_fails_on_the_cpu_too_does_not_count(ran):
    result = small(ran, "test_fails_on_cpu_too_openreg")
    assert result.status == "skipped"
    assert result.message.startswith("no baseline: the CPU failed: AssertionError")
    assert result.extra == {"baseline": "failed", "outcome": "failed"}
    result = small(ran, "test_xfail_on_cpu_openreg")
    assert result.status == "skipped"
    assert result.message == "no baseline: PyTorch expects the CPU to fail"


def test_a_late_error_belongs_to_its_test(ran):
    result = small(ran, "test_fails_late_openreg")
    assert result.status == "failed"
    assert result.message.startswith("after the test, at synchronize: IndexError")


def test_a_failure_must_show_twice(ran):
    result = small(ran, "test_fails_the_first_time_openreg")
    assert (result.status, result.extra) == ("passed", {"flaky": True})


def test_a_crash_costs_one_test(ran):
    result = small(ran, "test_crashes_openreg")
    assert (result.status, result.message) == ("crashed", "killed by SIGABRT")
    assert "in test_crashes" in result.detail


def test_a_hang_costs_one_test(ran):
    result = small(ran, "test_hangs_openreg")
    assert (result.status, result.message) == ("timeout", "did not end within 8 s")
    assert "in test_hangs" in result.detail


def test_skips_have_reasons(ran):
    result = small(ran, "test_must_not_run_openreg")
    assert (result.status, result.message) == ("skipped", "it ends the process")
    assert result.extra["skip_list"] == "skips.toml, entry 1"
    assert "cpu" in small(ran, "test_only_on_cpu_openreg").message.lower()


def test_names_that_are_gone_cost_what_uses_them(ran):
    result = small(ran, "test_uses_what_is_gone_openreg")
    assert result.status == "skipped"
    assert "a_decorator_that_is_gone, which this torch does not have" in result.message
    gone = ran[2].meta["stand_ins"]["test_small.py"]
    assert [name.rpartition(".")[2] for name in gone] == [
        "a_list_that_is_gone",
        "a_decorator_that_is_gone",
    ]


def test_only_device_generic_tests_run(ran):
    assert not [name for name in ran[0] if "Plain" in name or "test_other" in name]
    assert len([name for name in ran[0] if name.startswith("test_small.py::")]) == 14


def test_files_that_do_not_load(ran):
    missing = ran[0]["test_needs_module.py"]
    assert missing.status == "skipped"
    assert "needs the module a_module_that_nobody_has" in missing.message
    device_only = ran[0]["test_loads_on_cpu.py"]
    assert device_only.status == "failed"
    assert device_only.message.endswith("the device cannot make this")


def test_bad_arguments(tmp_path, capsys):
    def said(*arguments):
        assert main(["suite", "--output", str(tmp_path / "out"), *arguments]) == 2
        return capsys.readouterr().err

    assert "--pytorch must be a checkout" in said("--pytorch", str(tmp_path / "nowhere"))
    assert "no files test_*.py" in said("--pytorch", str(tmp_path))
    (tmp_path / "test_plain.py").write_text("pass\n")
    assert "no file of test_plain.py has device-generic tests" in said("--pytorch", str(tmp_path))
    assert "no file in" in said("--pytorch", str(tmp_path), "--files", "test_x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[skip]]\ntest = 'a'", "reason must be a text, got None"),
        ("[[skip]]\ntest = 'a'\nreason = 'b'\nwhy = 1", "expected file, test and reason"),
        ("[[skips]]\ntest = 'a'", "expected [[skip]] tables only, got skips"),
        ("[[skip]", "list.toml: "),
    ],
)
def test_bad_skip_lists(tmp_path, text, message):
    path = tmp_path / "list.toml"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        SkipList.read([path])
    assert message in str(raised.value)


def test_names_are_matched_by_template():
    on_cpu = ["A.test_to_cpu_cpu_float32", "A.test_x_cpu", "B.test_x_cpu", "A.test_cpu_y_cpu"]
    on_device = [
        "A.test_x_acme",
        "A.test_to_cpu_acme_float32",
        "A.test_z_acme",
        "A.test_cpu_y_acme",
    ]
    assert names.match(on_cpu, on_device, "acme") == {
        "A.test_to_cpu_acme_float32": "A.test_to_cpu_cpu_float32",
        "A.test_x_acme": "A.test_x_cpu",
        "A.test_z_acme": None,
        "A.test_cpu_y_acme": "A.test_cpu_y_cpu",
    }
    assert names.match(["A.test_x_cpu"], ["A.test_x_my_npu"], "my_npu") == {
        "A.test_x_my_npu": "A.test_x_cpu"
    }


@pytest.mark.parametrize(
    ("method", "dtype"),
    [
        ("test_x_acme_float32", "float32"),
        ("test_x_acme_float8_e4m3fn", "float8_e4m3fn"),
        ("test_x_acme_int64_complex64", "int64"),
        ("test_x_acme", None),
        ("test_float32_acme", None),
        ("test_x_acme_float320", None),
    ],
)
def test_dtype_of_a_name(method, dtype):
    assert names.dtype_of(method, "acme") == dtype


def test_a_stand_in_is_inert():
    gone = Gone("torch.thing")
    assert not gone
    assert list(gone) == []
    assert [1] + gone == [1]
    assert gone(1, 2)["x"].y is gone
    assert repr(gone) == "<torch.thing, which this torch does not have>"


def test_a_renamed_helper_of_torchs_is_found(tmp_path, monkeypatch):
    from torch.testing._internal import common_mkldnn

    old, now = "bf32_on_and_off", "reduced_f32_on_and_off"
    assert hasattr(common_mkldnn, now) and not hasattr(common_mkldnn, old)
    source = f"from torch.testing._internal.common_mkldnn import {old}\n"
    (tmp_path / "test_of_another_version.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        module, gone = drift.load("test_of_another_version")
        assert gone == [] and getattr(module, old) is getattr(common_mkldnn, now)
    finally:
        delattr(common_mkldnn, old)


def test_a_process_that_dies_while_loading_ends_its_tests(tmp_path):
    """No endless restarts: all tests of the job are charged."""
    plan = Plan("acme", [], SkipList([]), lambda test: True, lambda file, test: "")
    run = FileRun(tmp_path / "test_x.py", plan)
    listed = {"tests": {"cpu": ["A.test_a_cpu", "A.test_b_cpu"],
                        "acme": ["A.test_a_acme", "A.test_b_acme"]}, "gone": []}  # fmt: skip
    assert run.listed(Outcome(run.list_job(), "done", listed)) == []
    jobs = run.start(set(run.names))
    for stage in ("device", "again"):
        assert jobs[0].tag[1] == stage
        died = Outcome(jobs[0], "crashed", message="killed by SIGSEGV", doing="loading")
        jobs = run.advance(died)
    assert jobs[0].arguments["device"] == "cpu"
    with open(jobs[0].arguments["results"], "w") as log:
        for test in jobs[0].arguments["tests"]:
            line = {"test": test, "status": "passed", "message": "", "detail": "", "seconds": 0.0}
            log.write(json.dumps(line) + "\n")
    assert run.advance(Outcome(jobs[0], "done", True)) == []
    assert [(result.name, result.status) for result in run.take()] == [
        ("test_x.py::A.test_a_acme", "crashed"),
        ("test_x.py::A.test_b_acme", "crashed"),
    ]


def test_list_and_shard(tmp_path, capsys):
    (tmp_path / "test_three.py").write_text(
        textwrap.dedent(
            """
            from torch.testing._internal.common_device_type import instantiate_device_type_tests
            from torch.testing._internal.common_utils import TestCase

            class TestThree(TestCase):
                def test_a(self, device):
                    pass
                def test_b(self, device):
                    pass
                def test_c(self, device):
                    pass

            instantiate_device_type_tests(TestThree, globals())
            """
        )
    )
    base = ["suite", "--pytorch", str(tmp_path), "--output", str(tmp_path / "out"), "-k", "Three"]
    assert main([*base, "--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == [f"test_three.py::TestThree.test_{letter}_openreg" for letter in "abc"]
    assert main([*base, "--shard", "2/2"]) == 0
    report = Report.load(tmp_path / "out" / "report.json")
    assert [result.name for result in report.results] == listed[1:2]
