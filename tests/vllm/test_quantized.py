"""compressed-tensors checkpoints, against transformers with the same weights in float32."""

import json
from pathlib import Path

import pytest
import torch
from engine_host import generate
from models import log_probabilities, prompts_of, save_tiny
from safetensors.torch import load_file, save_file

HIDDEN = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4}
GROUP = 16


def int8(weight):
    scale = weight.abs().amax(1, keepdim=True) / 127
    values = (weight / scale).round().to(torch.int8)
    return {"weight": values, "weight_scale": scale}, values.float() * scale


def fp8(weight):
    scale = weight.abs().amax(1, keepdim=True) / 448
    values = (weight / scale).to(torch.float8_e4m3fn)
    return {"weight": values, "weight_scale": scale}, values.float() * scale


def int4(weight):
    rows, columns = weight.shape
    groups = weight.view(rows, -1, GROUP)
    scale = groups.abs().amax(2, keepdim=True) / 7
    values = (groups / scale).round().clamp(-8, 7)
    nibbles = (values + 8).to(torch.int64).view(rows, -1, 8)
    packed = (nibbles << torch.arange(0, 32, 4)).sum(2)
    packed = torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)
    tensors = {
        "weight_packed": packed,
        "weight_scale": scale.squeeze(2),
        "weight_shape": torch.tensor([rows, columns]),
    }
    return tensors, (values * scale).view(rows, columns)


def scheme(bits, kind, strategy, inputs=None):
    weights = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": strategy}
    if strategy == "group":
        weights["group_size"] = GROUP
    if inputs is not None:
        inputs = {"num_bits": bits, "type": kind, "symmetric": True, "strategy": "token",
                  "dynamic": True}  # fmt: skip
    return {"targets": ["Linear"], "weights": weights, "input_activations": inputs}


SCHEMES = {
    "W8A8": (int8, "int-quantized", scheme(8, "int", "channel", True), 0.05),
    "W4A16": (int4, "pack-quantized", scheme(4, "int", "group"), 2e-3),
    "FP8": (fp8, "float-quantized", scheme(8, "float", "channel", True), 0.05),
}


def description(form: str, group: dict) -> dict:
    """What config.json says about the linear layers of a quantised checkpoint."""
    return {
        "quant_method": "compressed-tensors", "format": form, "ignore": ["lm_head"],
        "config_groups": {"group_0": group}, "quantization_status": "compressed",
    }  # fmt: skip


def save_quantized(name: str, directory: Path) -> tuple[str, str]:
    """A checkpoint with quantised linear layers, and one with the same values in float32."""
    quantize, form, group, _ = SCHEMES[name]
    plain = directory / "plain"
    save_tiny("Llama", plain, initializer_range=0.08, **HIDDEN)
    tensors = load_file(plain / "model.safetensors")
    stored, dense = {}, {}
    for key, value in tensors.items():
        if key.endswith("_proj.weight"):
            parts, dense[key] = quantize(value)
            prefix = key.removesuffix("weight")
            stored |= {prefix + part: tensor.contiguous() for part, tensor in parts.items()}
        else:
            stored[key] = dense[key] = value
    save_file(dense, plain / "model.safetensors", {"format": "pt"})
    target = directory / name
    target.mkdir()
    save_file(stored, target / "model.safetensors", {"format": "pt"})
    for file in plain.glob("*token*"):
        (target / file.name).write_bytes(file.read_bytes())
    config = json.loads((plain / "config.json").read_text())
    config["quantization_config"] = description(form, group)
    (target / "config.json").write_text(json.dumps(config))
    return str(target), str(plain)


@pytest.mark.parametrize("name", SCHEMES)
def test_checkpoint(name, host, tmp_path):
    quantized, plain = save_quantized(name, tmp_path)
    prompt = prompts_of(60)[0]
    host.engine(model=quantized, dtype="float32", max_num_batched_tokens=64)
    (output,) = host.run(generate, [prompt], max_tokens=1, prompt_logprobs=0)
    pairs = zip(output.prompt_logprobs[1:], prompt[1:], strict=True)
    found = torch.tensor([entry[token].logprob for entry, token in pairs])
    expected = log_probabilities(plain, prompt)
    torch.testing.assert_close(found, expected, atol=SCHEMES[name][3], rtol=0)


REFUSED = {
    "a scale a tensor": ("FP8", "weights", {"strategy": "tensor"}, "a weight scale for each"),
    "asymmetric": ("W8A8", "input_activations", {"symmetric": False}, "symmetric activations"),
    "8 bits in groups": ("W4A16", "weights", {"num_bits": 8}, "serves 4-bit weights"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_named(name, host, tmp_path):
    scheme_name, part, change, message = REFUSED[name]
    _, form, group, _ = SCHEMES[scheme_name]
    config = description(form, {**group, part: {**group[part], **change}})
    model = save_tiny("Llama", tmp_path, **HIDDEN)
    with pytest.raises(RuntimeError, match=message):
        host.engine(model=model, load_format="dummy", hf_overrides={"quantization_config": config})


@pytest.mark.parametrize("name, message", [("W8A8", "No Int8 MoE"), ("W4A16", "No WNA16 MoE")])
def test_quantised_experts_are_refused(name, message, host, tmp_path):
    _, form, group, _ = SCHEMES[name]
    model = save_tiny("Qwen3Moe", tmp_path, **HIDDEN, num_experts=4, moe_intermediate_size=32)
    config = description(form, group)
    with pytest.raises(RuntimeError, match=message):
        host.engine(model=model, load_format="dummy", hf_overrides={"quantization_config": config})
