"""What LLM inference and training call: operators counted below autograd, on the device."""

import contextlib
from collections import Counter
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "openreg"


class Count(TorchDispatchMode):
    """Counts the ATen operators that reach the device, with what composite ones are made of."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        if func.namespace == "aten" and is_on_device((args, kwargs, result)):
            overload = "" if func._overloadname == "default" else f".{func._overloadname}"
            self.calls[func._schema.name + overload] += 1
        return result


def is_on_device(values) -> bool:
    tensors = (x for x in tree_leaves(values) if isinstance(x, torch.Tensor))
    return any(x.device.type == DEVICE for x in tensors)


def decode():
    """Answer two prompts with SmolLM2-135M by examples/paged_llm, 8 tokens each, sampled."""
    from examples.paged_llm.llm import LLM
    from examples.paged_llm.sampler import SamplingParams

    engine = LLM(device=DEVICE, dtype="bfloat16", num_blocks=64)
    params = SamplingParams(max_tokens=8, temperature=0.7, seed=0, ignore_eos=True)

    def run():
        list(engine.generate(["The capital of France is", "One, two,"], params))

    return run


def hf_generate():
    """Generate 8 tokens with transformers' Llama and sampling, in float16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).to(DEVICE, torch.float16).eval()
    prompt = torch.randint(1, 128, (2, 6), device=DEVICE)
    mask = torch.ones_like(prompt)

    def run():
        model.generate(
            prompt,
            attention_mask=mask,
            do_sample=True,
            top_k=20,
            top_p=0.9,
            max_new_tokens=8,
            pad_token_id=0,
        )

    return run


class Decoder(nn.Module):
    """A small GPT, with padding masks and dropout."""

    def __init__(self, vocabulary=100, width=32, layers=2):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Embedding(64, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, 0.1, "gelu", batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.size(1), device=DEVICE))
        causal = nn.Transformer.generate_square_subsequent_mask(tokens.size(1), device=DEVICE)
        padding = torch.zeros_like(tokens, dtype=torch.float).masked_fill(tokens == 0, -1e9)
        x = self.layers(x, mask=causal, src_key_padding_mask=padding, is_causal=True)
        return self.head(self.norm(x))


def transformer_training():
    """Two steps of a small GPT: autocast, gradient scaling and clipping, fused and plain AdamW."""
    model = Decoder().to(DEVICE)
    tokens = torch.randint(0, 100, (4, 16), device=DEVICE)
    optimizers = [torch.optim.AdamW(model.parameters(), fused=fused) for fused in (True, None)]
    scaler = torch.amp.GradScaler(DEVICE)

    def run():
        for optimizer in optimizers:
            optimizer.zero_grad()
            with torch.autocast(DEVICE, dtype=torch.bfloat16):
                logits = model(tokens)[:, :-1]
                loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()

    return run


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, groups=2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(2))

    def forward(self, x):
        y = self.norms[0](self.first(x)).relu()
        return (x + self.norms[1](self.second(y))).relu()


def vision_training():
    """One step of a small residual network in float32, channels last, SGD; a U-Net's upsampling."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        Residual(8),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(8, 10),
    )
    model = model.to(DEVICE, memory_format=torch.channels_last)
    images = torch.rand(4, 3, 32, 32, device=DEVICE)
    labels = torch.randint(0, 10, (4,), device=DEVICE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def run():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels, label_smoothing=0.1)
        loss.backward()
        optimizer.step()

    return run


def sequence_training():
    """One step of an LSTM with embedding bags and CTC loss; Adam."""
    bag = nn.EmbeddingBag(50, 16, mode="mean").to(DEVICE)
    lstm = nn.LSTM(16, 16, 2, batch_first=True, bidirectional=True, dropout=0.1).to(DEVICE)
    head = nn.Linear(32, 20).to(DEVICE)
    parameters = [*bag.parameters(), *lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parameters)
    words = torch.randint(0, 50, (4 * 12, 3), device=DEVICE)
    targets = torch.randint(1, 20, (4, 5), device=DEVICE)

    def run():
        optimizer.zero_grad()
        hidden, _ = lstm(bag(words).view(4, 12, 16))
        scores = head(hidden).log_softmax(2).transpose(0, 1)
        F.ctc_loss(scores, targets, (12,) * 4, (5,) * 4).backward()
        optimizer.step()

    return run


WORKLOADS: dict[str, Callable] = {
    "LLM decoding (examples/paged_llm)": decode,
    "LLM generation (transformers)": hf_generate,
    "transformer training": transformer_training,
    "vision training": vision_training,
    "sequence training": sequence_training,
}


def count() -> dict[str, dict[str, int]]:
    """Run each workload twice and return the second run's calls by operator.

    Operators that took the synchronous fallback inside another operator are among them.
    """
    counts = {}
    for name, prepare in WORKLOADS.items():
        torch.manual_seed(0)
        run = prepare()
        run()
        torch.openreg.reset_fallback_counts()
        with Count() as mode:
            run()
        torch.openreg.synchronize()
        calls = mode.calls
        for op, times in torch.openreg.fallback_counts().items():
            calls[op] = max(calls[op], times)
        counts[name] = dict(sorted(calls.items()))
        with contextlib.suppress(AttributeError):
            torch.openreg.empty_cache()
    return counts
