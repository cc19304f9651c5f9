"""A model spread over a large and a small device by accelerate's device_map="auto".

Accelerate asks a fixed list of backends how much memory there is, of which this device is none, so
that is told (docs/profiles.md). A profile is read once: each test is a program of its own.
"""

import json
import os
import subprocess
import sys

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

LAYERS = 24
PRELUDE = f"""
import json, sys
import torch
from transformers import AutoModelForCausalLM
directory = sys.argv[1]
torch.set_num_threads(1)
max_memory = {{
    i: int(0.9 * torch.openreg.mem_get_info(i)[0]) for i in range(torch.accelerator.device_count())
}}
reference = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.double)
prompt = torch.arange(24).view(3, 8)

@torch.no_grad()
def report(model):
    logits = model(prompt.to(model.device)).logits.cpu()
    options = dict(max_new_tokens=4, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = model.generate(prompt.to(model.device), **options)
    layers = [str(model.hf_device_map[f"model.layers.{{i}}"]) for i in range({LAYERS})]
    print(json.dumps({{
        "equal": torch.equal(logits, reference(prompt).logits),
        "generated": ids.tolist() == reference.generate(prompt, **options).tolist(),
        "layers": layers,
        "used": [torch.openreg.memory_allocated(i) for i in range(2)],
    }}))
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A Llama of 24 layers of 4.5 MiB each, 110 MiB with its embeddings, untrained.

    Products of doubles are ATen's on the device as on the CPU, so that results can be equal.
    """
    path = tmp_path_factory.mktemp("llama")
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).double().save_pretrained(path)
    return path


def run(program, directory, profile):
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + program, str(directory)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=directory,
        env={**os.environ, "OPENREG_PROFILE": profile},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_from_pretrained_spreads_layers_by_memory(directory):
    program = """
report(AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.double, device_map="sequential", max_memory=max_memory))
"""
    result = run(program, directory, "name=Large,memory=96M;name=Small,memory=64M")
    assert result["equal"] and result["generated"]
    assert result["layers"] == sorted(result["layers"]) and set(result["layers"]) == {"0", "1"}
    assert result["layers"].count("0") > result["layers"].count("1")
    assert 0 < result["used"][1] < result["used"][0] <= 0.9 * (96 << 20)


def test_auto_balances_and_offloads_what_fits_nowhere(directory):
    """A small first device gets what it holds; the rest goes to the large one, then to the host."""
    program = """
report(AutoModelForCausalLM.from_pretrained(
    directory, dtype=torch.double, device_map="auto", max_memory={**max_memory, "cpu": "1GiB"}))
"""
    result = run(program, directory, "name=Small,memory=24M;name=Large,memory=64M")
    assert result["equal"] and result["generated"]
    assert 0 < result["layers"].count("0") < result["layers"].count("1")
    assert "cpu" in result["layers"]
    assert result["used"][0] <= 24 << 20 and result["used"][1] <= 64 << 20


def test_dispatch_model(directory):
    program = """
from accelerate import dispatch_model, infer_auto_device_map
model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.double)
device_map = infer_auto_device_map(
    model, max_memory=max_memory, no_split_module_classes=["LlamaDecoderLayer"])
model = dispatch_model(model, device_map)
report(model)
"""
    result = run(program, directory, "name=Large,memory=96M;name=Small,memory=48M,link=1G")
    assert result["equal"] and result["generated"]
    assert set(result["layers"]) == {"0", "1"}
