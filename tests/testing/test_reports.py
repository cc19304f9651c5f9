"""Results, journals, baselines, merging, and every kind of report."""

import json
import xml.etree.ElementTree as ET

import pytest

from torch_openreg.testing import html, reports
from torch_openreg.testing.errors import UsageError
from torch_openreg.testing.expected import Expected
from torch_openreg.testing.results import Journal, Report, Result


def result(name, status="passed", **fields):
    operator, _, dtype = name.partition("-")
    return Result("ops", operator, name, status, dtype=dtype or None, **fields)


def report(*results, **meta):
    return Report({"device": "openreg", "torch": "2.13.0", "complete": True, **meta}, list(results))


EVIL = 'a </script> <b> "quoted" & \x00\x1b é'


@pytest.fixture
def full():
    """A report with every status."""
    return report(
        result("add-float32", extra={"tensors": 4, "bitwise": 3, "checks": {"forward": [2, 0]}}),
        result("mul-float32", "failed", message=EVIL, detail="stack\n" + EVIL, reproduce="run mul"),
        result("div-int8", "crashed", message="forward, sample 0: killed by SIGSEGV"),
        result("exp-int8", "timeout", message="no progress in 60 s"),
        result("abs-bool", "skipped", message="the CPU refuses"),
        result("sin-bool", "expected", extra={"expected_by": ["ops sin *: a reason (list:1)"]}),
        date="2026-01-02T03:04:05+00:00",
        seconds=61.0,
    )


def test_a_status_has_to_be_known():
    with pytest.raises(ValueError, match="status must be one of passed, .*, got 'fine'"):
        result("add-int8", "fine")


def test_counts_and_failures(full):
    assert set(full.counts().values()) == {1}
    assert [r.status for r in full.failures()] == ["failed", "crashed", "timeout"]


def test_a_report_survives_its_file(full, tmp_path):
    full.save(tmp_path / "report.json")
    loaded = Report.load(tmp_path / "report.json")
    assert (loaded.meta, loaded.results) == (full.meta, full.results)
    assert [file.name for file in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "[]", '{"schema": 99}', '{"schema": 1, "meta": {}}'])
def test_what_is_no_report_says_so(tmp_path, text):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(ValueError, match="report.json"):
        Report.load(tmp_path / "report.json")


def test_a_journal_is_resumed_after_a_kill_in_a_line(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    with journal:
        journal.start({"device": "cpu"})
        journal.append(result("add-int8"))
        journal.append(result("mul-int8", "failed", message="é"))
    with journal.path.open("a") as file:
        file.write('{"command": "ops", "gro')
    with journal:
        meta, results = journal.resume()
        assert meta == {"device": "cpu"}
        assert [r.name for r in results] == ["add-int8", "mul-int8"]
        journal.append(result("div-int8"))
    with journal:
        assert [r.name for r in journal.resume()[1]] == ["add-int8", "mul-int8", "div-int8"]
    journal.remove()
    with pytest.raises(ValueError, match="there is no run to resume"):
        journal.resume()


def test_a_journal_of_something_else(tmp_path):
    (tmp_path / "journal.jsonl").write_text("hello\n")
    with pytest.raises(ValueError, match="is not a journal"):
        Journal(tmp_path / "journal.jsonl").resume()


def test_a_baseline_tells_what_changed():
    before = report(
        result("a-int8"),
        result("b-int8", "failed"),
        result("c-int8", "expected"),
        result("d-int8", "crashed"),
        result("e-int8"),
        result("f-int8", "expected"),
    )
    after = report(
        result("a-int8", "timeout"),
        result("b-int8"),
        result("c-int8"),
        result("d-int8", "failed"),
        result("f-int8", "failed"),
        result("g-int8", "failed"),
    )
    found = after.compare(before)
    assert [r.name for r in found.regressed] == ["a-int8", "f-int8"]
    assert [r.name for r in found.gained] == ["b-int8", "c-int8"]
    assert [r.name for r in found.new] == ["g-int8"]
    assert [r.name for r in found.gone] == ["e-int8"]


def test_shards_are_joined():
    used = result("c-int8", "expected", extra={"expected_by": ["one"]})
    first = report(result("a-int8"), used, seconds=2.0, unused_expected=["two"])
    second = report(result("b-int8"), seconds=3.0, unused_expected=["one", "two"])
    joined = Report.merge([first, second])
    assert [r.name for r in joined.results] == ["a-int8", "c-int8", "b-int8"]
    assert joined.meta["seconds"] == 5.0
    assert joined.meta["unused_expected"] == ["two"]
    assert joined.meta["complete"]
    second.meta["complete"] = False
    assert not Report.merge([first, second]).meta["complete"]


def test_reports_of_different_devices_are_not_joined():
    with pytest.raises(ValueError, match="different devices: cpu, openreg"):
        Report.merge([report(), report(device="cpu")])
    with pytest.raises(ValueError, match="nothing to merge"):
        Report.merge([])


def test_junit_is_well_formed(full):
    root = ET.fromstring(reports.junit(full))
    (suite,) = root
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "1", "errors": "2", "skipped": "2"}
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["add-float32"].get("classname") == "ops.add"
    assert not list(cases["add-float32"])
    failure = cases["mul-float32"].find("failure")
    assert "reproduce: run mul" in failure.text
    assert '</script> <b> "quoted" &' in failure.get("message")
    assert cases["div-int8"].find("error").get("type") == "crashed"
    assert "a reason" in cases["sin-bool"].find("skipped").get("message")


def data_of(page):
    """Return what the page's script reads."""
    line = next(line for line in page.splitlines() if line.startswith("const data = "))
    return json.loads(line.removeprefix("const data = ").removesuffix(";"))


def test_the_page_has_the_data_and_nothing_from_elsewhere(full):
    page = html.page(full, full.compare(report(result("mul-float32"))))
    data = data_of(page)
    rows = {row["n"]: row for row in data["results"]}
    assert {row["s"] for row in rows.values()} == set(data["statuses"])
    assert rows["mul-float32"]["m"] == EVIL
    assert rows["mul-float32"]["r"] == "run mul"
    assert rows["add-float32"]["b"] == [3, 4]
    assert data["regressed"] == ["ops mul-float32"]
    assert page.count("</script>") == 1  # A message cannot end the script.
    assert "http:" not in page and "https:" not in page and "src=" not in page


def test_the_relay_is_told_in_its_own_fields(full, monkeypatch):
    monkeypatch.delenv("GITHUB_RUN_ID", raising=False)
    told = reports.relay(full)
    assert told["conclusion"] == "failure"
    assert told["test_results"] == {"total": 6, "passed": 1, "failed": 3, "skipped": 2}
    assert told["failed_tests_detail"][0]["classname"] == "ops.mul"
    assert told["artifact_url"] is None
    monkeypatch.setenv("GITHUB_SERVER_URL", "https://example.org")
    monkeypatch.setenv("GITHUB_REPOSITORY", "acme/torch_acme")
    monkeypatch.setenv("GITHUB_RUN_ID", "17")
    told = reports.relay(full, full.compare(full))
    assert told["conclusion"] == "success"
    assert told["test_results"] == {"total": 6, "passed": 1, "failed": 0, "skipped": 5}
    assert told["artifact_url"] == "https://example.org/acme/torch_acme/actions/runs/17"
    full.meta["complete"] = False
    assert reports.relay(full, full.compare(full))["conclusion"] == "failure"


def test_the_page_of_text(full):
    text = reports.markdown(full)
    assert "| passed | 1 |" in text
    assert "| `div` | int8 | forward, sample 0: killed by SIGSEGV |" in text
    assert "| `sin` | bool | ops sin *: a reason (list:1) |" in text
    assert "3 of 4 compared tensors" in text
    assert text.index("## What fails") < text.index("## What is expected to fail")


def test_the_terminal_names_failures_and_commands(full, tmp_path):
    full.meta["unused_expected"] = ["ops cos *: no longer (list:9)"]
    text = reports.summary(full, None, tmp_path)
    assert "mul-float32" in text and "    run mul" in text
    assert "unexpectedly passed" in text and "ops cos *" in text
    assert "1 passed, 1 failed, 1 crashed, 1 timeout, 1 skipped, 1 expected" in text
    text = reports.summary(full, full.compare(report(result("mul-float32"))), tmp_path)
    assert "1 regressed, 0 gained, 5 new, 0 gone" in text


LIST = """
# a comment
ops  svd:gradient  float16,int*  half a reason
ops  linalg.*      *             a whole one
suite  test_x      *             another
"""


def test_expected_failures_are_found():
    expected = Expected.parse(LIST)
    assert expected.find("ops", "svd:gradient", "int8").reason == "half a reason"
    assert expected.find("ops", "svd:forward", "int8") is None
    assert expected.find("ops", "svd:gradient", "float32") is None
    assert expected.find("ops", "linalg.inv:out", "float32").reason == "a whole one"
    assert expected.find("suite", "test_x").reason == "another"
    assert expected.find("ops", "test_x", "int8") is None
    assert expected.find_all("ops", ["svd:gradient", "svd:forward"], "int8") is None
    assert len(expected.find_all("ops", ["linalg.inv:out", "linalg.inv"], "int8")) == 1


def test_a_line_without_a_reason():
    with pytest.raises(UsageError, match="list, line 2: expected `command name dtypes reason`"):
        Expected.parse("# first\nops add *\n")


def test_the_list_that_ships_has_reasons():
    expected = Expected.of_device("openreg")
    assert expected.entries and all(len(entry.reason) > 10 for entry in expected.entries)
    assert not Expected.of_device("nosuch").entries
