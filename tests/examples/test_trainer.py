"""transformers' Trainer on the device, which ACCELERATE_TORCH_DEVICE names to accelerate."""

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed

class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 16
    def __getitem__(self, i):
        tokens = torch.arange(16) * (i + 3) % 190 + 5
        return {"input_ids": tokens, "labels": tokens}

set_seed(0)
model = LlamaForCausalLM(LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                                     intermediate_size=96, vocab_size=200, num_key_value_heads=2))
options = json.loads(sys.argv[2])
args = TrainingArguments(sys.argv[1], max_steps=4, per_device_train_batch_size=4, report_to=[],
                         save_steps=2, disable_tqdm=True, seed=1, **options)
trainer = Trainer(model, args, train_dataset=Numbers(), eval_dataset=Numbers())
loss = trainer.train().training_loss
resumed = trainer.train(resume_from_checkpoint=True).global_step
print(json.dumps({"loss": loss, "device": str(model.device), "steps": resumed,
                  "eval": trainer.evaluate()["eval_loss"]}))
"""


def train(device, folder, **options):
    environment = os.environ | {"ACCELERATE_TORCH_DEVICE": device, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "options",
    [{}, {"torch_compile": True}, {"gradient_checkpointing": True, "dataloader_num_workers": 2}],
    ids=["plain", "compiled", "workers"],
)
def test_training(options, tmp_path):
    actual = train("openreg", tmp_path / "device", **options)
    expected = train("cpu", tmp_path / "cpu")
    assert actual["device"] == "openreg:0"
    assert actual["steps"] == expected["steps"] == 4
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert actual["eval"] == pytest.approx(expected["eval"], rel=1e-4)
