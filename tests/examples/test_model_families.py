"""Small models of transformers' families, untrained: outputs and gradients are the CPU's.

What they need beyond a Llama: experts (grouped products, histc of integers), recurrences, other
attention, images, sound, losses of several kinds.
"""

import copy

import pytest
import torch
import transformers

DEVICE = "openreg"
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "vocab_size": 200,
    "max_position_embeddings": 128,
}
CAUSAL = TEXT | {"num_key_value_heads": 2, "pad_token_id": 0}
PYRAMID = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
SEQUENCE = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "vocab_size": 200,
}
EXPERTS = {
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
STATES = {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 200, "state_size": 8}
VISION = {k: TEXT[k] for k in list(TEXT)[:4]} | {"image_size": 64, "patch_size": 16}
WHISPER = {
    "max_source_positions": 50,
    "num_mel_bins": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
WAVES = {
    "conv_dim": (16, 16),
    "conv_kernel": (8, 4),
    "conv_stride": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0,
    "ctc_loss_reduction": "mean",
}


def ids(high=190, *shape):
    return torch.randint(5, high, shape or (2, 17))


def text():
    tokens = ids()
    return {"input_ids": tokens, "labels": tokens}


def images():
    return {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.tensor([0, 1])}


def sound():
    return {"input_values": torch.randn(2, 800), "labels": ids(29, 2, 8)}


def pairs():
    return {
        "input_ids": ids(),
        "pixel_values": torch.randn(2, 3, 64, 64),
        "return_loss": True,
    }


def spectrum():
    return {"input_features": torch.randn(2, 16, 100), "labels": ids()}


def segments():
    return {"pixel_values": images()["pixel_values"], "labels": torch.randint(0, 2, (2, 64, 64))}


CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 32}
FAMILIES = {
    "Bert": ("ForMaskedLM", TEXT, text),
    "GPT2": ("LMHeadModel", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 200}, text),
    "Mistral": ("ForCausalLM", CAUSAL | {"sliding_window": 8}, text),
    "Mixtral": ("ForCausalLM", CAUSAL | {"num_local_experts": 4}, text),
    "DeepseekV3": ("ForCausalLM", TEXT | EXPERTS, text),
    "Gemma2": ("ForCausalLM", CAUSAL | {"head_dim": 16}, text),
    "Mamba2": ("ForCausalLM", STATES | {"num_heads": 8, "head_dim": 16, "n_groups": 1}, text),
    "Bart": ("ForConditionalGeneration", SEQUENCE | {"max_position_embeddings": 128}, text),
    "Whisper": ("ForConditionalGeneration", SEQUENCE | WHISPER, spectrum),
    "Wav2Vec2": ("ForCTC", TEXT | {"vocab_size": 30} | WAVES, sound),
    "ViT": ("ForImageClassification", VISION, images),
    "ConvNext": ("ForImageClassification", PYRAMID, images),
    "ResNet": ("ForImageClassification", PYRAMID | {"embedding_size": 8}, images),
    "Segformer": (
        "ForSemanticSegmentation",
        PYRAMID | {"num_attention_heads": [1, 1, 2, 2], "decoder_hidden_size": 16},
        segments,
    ),
    "CLIP": ("Model", CLIP, pairs),
}


def outcome(model, inputs):
    """Return all floating tensors of the output, and the parameters' gradients by name."""
    output = model(**inputs)
    output.loss.backward()
    results = [x.detach() for x in output.values() if isinstance(x, torch.Tensor)]
    return results, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    torch.manual_seed(0)
    kind, options, make_inputs = FAMILIES[family]
    config = getattr(transformers, f"{family}Config")(**options)
    model = getattr(transformers, f"{family}{kind}")(config).eval()
    inputs = make_inputs()
    expected = outcome(copy.deepcopy(model), inputs)
    on_device = {k: v.to(DEVICE) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    actual = outcome(model.to(DEVICE), on_device)
    assert actual[1].keys() == expected[1].keys()
    # Gradients of biases before a normalisation are sums that cancel out.
    torch.testing.assert_close(
        actual, expected, check_device=False, rtol=1e-4, atol=1e-5, equal_nan=True
    )
