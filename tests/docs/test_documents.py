"""The documents: code in them runs, files they name exist, every variable is in the table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks():
    for path in DOCUMENTS:
        code = re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)
        for number, block in enumerate(code):
            yield pytest.param(block, id=f"{path.name}-{number}")


@pytest.mark.parametrize("code", list(blocks()))
def test_python_blocks_run(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_architecture_names_existing_files():
    text = (ROOT / "docs" / "architecture.md").read_text()
    for name in re.findall(r"`(csrc/[\w./]+\.(?:cpp|h|py|yaml))`", text):
        assert (ROOT / name).exists(), name


def test_every_note_is_in_the_table():
    table = (ROOT / "docs" / "architecture.md").read_text()
    for path in sorted((ROOT / "csrc").rglob("*.[ch]*")):
        for title in re.findall(r"^\s*// Note \[([\w ]+)\]$", path.read_text(), re.MULTILINE):
            row = f"| {title} | `{path.relative_to(ROOT)}` |"
            assert row in table, row


def test_every_environment_variable_is_in_the_table():
    table = (ROOT / "docs" / "environment.md").read_text()
    sources = [*(ROOT / "csrc").rglob("*.cpp"), *(ROOT / "torch_openreg").rglob("*.py")]
    used = {
        name
        for path in [*sources, ROOT / "setup.py"]
        for name in re.findall(r"[\"'](OPENREG_[A-Z_]+)[\"']", path.read_text())
    }
    assert used and not {name for name in used if f"`{name}`" not in table}


def test_make_help_lists_every_task():
    command = ["make", "--no-print-directory", "help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.strip()}
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == set(phony.group(1).split())


def test_no_path_of_a_machine(tmp_path):
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    home = os.path.expanduser("~")
    for name in files:
        text = (ROOT / name).read_text(errors="ignore") if (ROOT / name).is_file() else ""
        assert f"{home}/" not in text and str(ROOT) not in text, name
