"""docs/operators.md says what the registrations are, and what waits for the stream."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def table():
    """The page and its rows, made in a process where no test has registered anything."""
    code = (
        "import json; from tools.operator_table import __main__ as table, ways;"
        "counts = json.loads(table.COUNTS.read_text());"
        "operators = ways.operators();"
        "print(json.dumps([table.page(operators, counts), {op.name: op.way for op in operators}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_page_is_up_to_date(table):
    written = (ROOT / "docs" / "operators.md").read_text()
    assert written == table[0], "write it again: python -m tools.operator_table"


def test_what_is_called_waits_only_for_data(table):
    counts = json.loads((ROOT / "tools" / "operator_table" / "counts.json").read_text())
    called = {name for calls in counts.values() for name in calls}
    assert len(called) > 100
    assert not {name for name in called if table[1].get(name) in ("synchronous", "unsupported")}


def test_ways_of_known_operators(table):
    ways = table[1]
    assert ways["aten::add.Tensor"] == "asynchronous"
    assert ways["aten::im2col"] == "asynchronous"
    assert ways["aten::view"] == "metadata"
    assert ways["aten::copy_"] == "copy"
    assert ways["aten::linear"] == "composite"
    assert ways["aten::nonzero"] == "synchronous, by data"
    assert ways["aten::cudnn_convolution"] == "unsupported"
