"""What the tests of the vLLM plugin share: the process of the engines, and SmolLM2."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ.update(  # before vllm or transformers is imported anywhere, here or in a child
    HF_HUB_OFFLINE="1",
    VLLM_NO_USAGE_STATS="1",
    VLLM_ENABLE_V1_MULTIPROCESSING="0",
    VLLM_LOGGING_LEVEL="WARNING",
    VLLM_WORKER_MULTIPROC_METHOD="spawn",
)
ROOT = Path(__file__).parents[2]

from engine_host import Host  # noqa: E402


def pytest_collection_modifyitems(items):
    here = [item for item in items if Path(__file__).parent in item.path.parents]
    if here and importlib.util.find_spec("vllm") is None:
        pytest.exit("tests/vllm needs vLLM: `make test` installs it", returncode=1)


@pytest.fixture(scope="session", autouse=True)
def cache_root(tmp_path_factory):
    os.environ["VLLM_CACHE_ROOT"] = str(tmp_path_factory.mktemp("vllm_cache"))


@pytest.fixture(scope="session")
def host(cache_root):
    host = Host()
    yield host
    host.close()


@pytest.fixture(scope="session")
def smollm2() -> str:
    """The directory of SmolLM2-135M-Instruct."""
    script = ROOT / "examples" / "smollm2.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return done.stdout.strip()
