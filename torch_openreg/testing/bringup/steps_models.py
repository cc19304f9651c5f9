"""The whole: a transformer trains and decodes with the CPU's numbers."""

import torch
from torch.nn import functional as F

from torch_openreg.testing.bringup.step import Device, Part, close, same, sample

models = Part("models")

_VOCABULARY, _WIDTH, _HEADS, _LENGTH = 61, 32, 4, 12


class _Block(torch.nn.Module):
    """A transformer block with causal attention and a cache of keys and values."""

    def __init__(self):
        super().__init__()
        self.norm_1 = torch.nn.LayerNorm(_WIDTH)
        self.project = torch.nn.Linear(_WIDTH, 3 * _WIDTH)
        self.output = torch.nn.Linear(_WIDTH, _WIDTH)
        self.norm_2 = torch.nn.LayerNorm(_WIDTH)
        self.up = torch.nn.Linear(_WIDTH, 4 * _WIDTH)
        self.down = torch.nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x, cache=None, position=0):
        """Return the block's output; x: (batch, length, width).

        Args:
            cache: keys and values (2, batch, heads, all positions, width of a head), or None.
            position: of x's first token in the cache.
        """
        batch, length, _ = x.shape
        shape = (batch, length, 3, _HEADS, _WIDTH // _HEADS)
        query, key, value = self.project(self.norm_1(x)).view(shape).permute(2, 0, 3, 1, 4)
        if cache is not None:
            cache[0, :, :, position : position + length] = key
            cache[1, :, :, position : position + length] = value
            key, value = cache[:, :, :, : position + length]
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=length > 1)
        x = x + self.output(mixed.transpose(1, 2).reshape(batch, length, _WIDTH))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


class _Model(torch.nn.Module):
    """Two blocks between an embedding and its transpose."""

    def __init__(self):
        super().__init__()
        self.tokens = torch.nn.Embedding(_VOCABULARY, _WIDTH)
        self.positions = torch.nn.Embedding(64, _WIDTH)
        self.blocks = torch.nn.ModuleList(_Block() for _ in range(2))
        with torch.no_grad():
            for seed, parameter in enumerate(self.parameters()):
                noise = sample(*parameter.shape, seed=seed)
                parameter.copy_(noise * 0.15 if parameter.dim() > 1 else 1 + 0.1 * noise)

    def forward(self, ids, caches=(None, None), position=0):
        """Return logits (batch, length, vocabulary) of ids (batch, length)."""
        places = torch.arange(position, position + ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(places)
        for block, cache in zip(self.blocks, caches, strict=True):
            x = block(x, cache, position)
        return F.linear(x, self.tokens.weight)


def _ids():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, _VOCABULARY, (3, _LENGTH + 1), generator=generator)


def _train(device):
    model, ids = _Model().to(device), _ids().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        logits = model(ids[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses), model.blocks[1].project.weight.detach()


@models.step("aten::embedding", "aten::embedding_dense_backward", "aten::native_layer_norm",
             "aten::native_layer_norm_backward", "aten::addmm", "aten::gelu.out",
             "aten::_log_softmax.out", "aten::nll_loss_forward.output",
             "aten::nll_loss_backward.grad_input")  # fmt: skip
def transformer_training(d: Device):
    """Three training steps of a small transformer give the CPU's losses and weights.

    Nothing new: embedding, attention, layer norm, cross entropy, their gradients, and AdamW.
    """
    losses, weight = _train(d.name)
    expected_losses, expected_weight = _train("cpu")
    close(losses, expected_losses, "the losses", atol=1e-4, rtol=1e-4)
    close(weight, expected_weight, "a weight after three steps", atol=1e-3, rtol=1e-3)


def _generate(device, steps):
    model, ids = _Model().to(device), _ids()[:1, :4].to(device)
    shape = (2, 1, _HEADS, 4 + steps, _WIDTH // _HEADS)
    caches = [torch.zeros(shape, device=device) for _ in model.blocks]
    position, found = 0, []
    with torch.inference_mode():
        for _ in range(steps):
            logits = model(ids, caches, position)[:, -1]
            position += ids.shape[1]
            ids = logits.argmax(-1, keepdim=True)
            found.append(ids)
    return torch.cat(found, 1), logits


@models.step("aten::argmax.out", "aten::copy_", "aten::slice.Tensor",
             "aten::scaled_dot_product_attention")  # fmt: skip
def transformer_decoding(d: Device):
    """Greedy decoding with a cache of keys and values gives the CPU's tokens.

    Prefill of a prompt, then a token at a time, written into slices of a preallocated cache. The
    sampled token stays on the device.
    """
    tokens, logits = _generate(d.name, 8)
    expected_tokens, expected_logits = _generate("cpu", 8)
    same(tokens, expected_tokens, "the tokens")
    close(logits, expected_logits, "the last logits", atol=1e-4, rtol=1e-4)
