"""Models train on the device as on the CPU: the same losses, step by step."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

STEPS = 5


class Transformer(nn.Module):
    """A small language model: embeddings, pre-norm blocks with causal attention, a head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.tokens = nn.Embedding(31, 32)
        self.positions = nn.Embedding(12, 32)
        layer = nn.TransformerEncoderLayer(
            32, 4, 64, dropout=dropout, activation="gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 31)

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], device=x.device)
        return self.head(self.blocks(x, mask=mask, is_causal=True))


class ConvolutionalNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, groups=2),
            nn.GroupNorm(4, 16),
            nn.SiLU(),
            nn.ConvTranspose2d(16, 8, 2, stride=2),
            nn.AdaptiveAvgPool2d(4),
            nn.Flatten(),
        )
        self.head = nn.Linear(128, 10)

    def forward(self, x):
        return self.head(self.features(x))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(31, 16)
        self.layers = nn.LSTM(16, 24, num_layers=2, batch_first=True)
        self.head = nn.Linear(24, 31)

    def forward(self, tokens):
        return self.head(self.layers(self.tokens(tokens))[0])


def losses(device, model, batches, memory_format=torch.contiguous_format, **options):
    """Return the losses of some steps with AdamW, and the trained parameters."""
    model = model.to(device, memory_format=memory_format)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, **options)
    torch.manual_seed(5)
    result = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        outputs = model(inputs.to(device))
        loss = F.cross_entropy(outputs.flatten(0, -2), targets.to(device).flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        result.append(loss.item())
    return result, [p.detach().cpu() for p in model.parameters()]


def token_batches():
    torch.manual_seed(1)
    tokens = torch.randint(31, (STEPS, 4, 13))
    return [(batch[:, :-1], batch[:, 1:]) for batch in tokens]


def image_batches():
    torch.manual_seed(1)
    return [(torch.randn(4, 3, 8, 8), torch.randint(10, (4,))) for _ in range(STEPS)]


def make(model_class, **arguments):
    torch.manual_seed(0)
    return model_class(**arguments)


@pytest.mark.parametrize("options", [{"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_transformer(dropout, options):
    batches = token_batches()
    expected = losses("cpu", make(Transformer, dropout=dropout), batches, **options)
    actual = losses("openreg", make(Transformer, dropout=dropout), batches, **options)
    assert actual[0] == expected[0]
    for a, e in zip(actual[1], expected[1], strict=True):
        assert torch.equal(a, e)


def test_convolutional_network():
    batches = image_batches()
    expected = losses("cpu", make(ConvolutionalNetwork), batches, foreach=True)
    actual = losses("openreg", make(ConvolutionalNetwork), batches, foreach=True)
    assert actual[0] == expected[0]
    for a, e in zip(actual[1], expected[1], strict=True):
        assert torch.equal(a, e)


def test_convolutional_network_in_channels_last():
    options = {"memory_format": torch.channels_last, "foreach": True}
    expected = losses("cpu", make(ConvolutionalNetwork), image_batches(), **options)
    actual = losses("openreg", make(ConvolutionalNetwork), image_batches(), **options)
    # Off the CPU, group_norm's derivative is taken of contiguous tensors.
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4)


def test_recurrent_network():
    batches = token_batches()
    expected = losses("cpu", make(Recurrent), batches, foreach=True)
    actual = losses("openreg", make(Recurrent), batches, foreach=True)
    # The CPU's LSTM is another kernel, see test_recurrent.py.
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-4)


def test_evaluation_after_training():
    model = make(ConvolutionalNetwork)
    copy = make(ConvolutionalNetwork)
    batches = image_batches()
    losses("cpu", model, batches, foreach=True)
    losses("openreg", copy, batches, foreach=True)
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = model.eval()(x)
        actual = copy.eval()(x.to("openreg"))
    assert torch.equal(actual.cpu(), expected)


def test_nothing_waits():
    """Forward and backward of the models need no synchronous operator."""
    for model_class, batches in ((Transformer, token_batches()), (Recurrent, token_batches())):
        torch.openreg.reset_fallback_counts()
        losses("openreg", make(model_class), batches[:1], foreach=True)
        assert torch.openreg.fallback_counts() == {}
    torch.openreg.reset_fallback_counts()
    losses("openreg", make(ConvolutionalNetwork), image_batches()[:1], foreach=True)
    assert torch.openreg.fallback_counts() == {}
