"""The kernels of torch.ops.openreg against what ATen would run, and against memory.

    python -m benchmarks.kernels

Alternatives take turns within one process, and medians are compared, so that other load on the
machine changes the ratios little.
"""

import statistics
import time

import torch

from torch_openreg import ops

DEVICE = "openreg"


def interleaved(alternatives, *, rounds=31):
    """Median seconds of each alternative, a dict of functions called in turn."""
    seconds = {name: [] for name in alternatives}
    for i in range(rounds + 3):
        for name, function in alternatives.items():
            torch.accelerator.synchronize()
            begin = time.perf_counter()
            function()
            torch.accelerator.synchronize()
            if i >= 3:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def line(name, nbytes, seconds):
    times = ", ".join(f"{k} {v * 1e6:.0f} us" for k, v in seconds.items())
    bound = f", {nbytes / seconds['openreg'] / 1e9:.1f} GB/s" if nbytes else ""
    print(f"{name:34} {times}{bound}")


def linear(dtype, rows, columns=4608, inner=4608):
    """A weight beyond the caches: reading it is the bound, which a sum of it measures."""
    weight = torch.randn(columns, inner, device=DEVICE).to(dtype)
    x = torch.randn(rows, inner, device=DEVICE).to(dtype)
    words = weight.view(torch.int32).view(-1)
    seconds = interleaved(
        {
            "openreg": lambda: ops.linear(x, weight),
            "aten": lambda: torch.nn.functional.linear(x, weight),
            "read": lambda: words.max(),
        }
    )
    line(f"linear {rows} x {columns} x {inner} {dtype}"[:34], weight.nbytes, seconds)


def attention(dtype, sequences, length, new, heads=9, kv_heads=3, head_size=64, block_size=16):
    """Paged attention against scaled_dot_product_attention over dense keys and values."""
    blocks = -(-length // block_size)
    shape = (sequences * blocks, block_size, kv_heads, head_size)
    key, value = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
    table = torch.randperm(shape[0]).view(sequences, blocks).int().to(DEVICE)
    starts = (torch.arange(sequences + 1) * new).int().to(DEVICE)
    lengths = torch.full((sequences,), length, dtype=torch.int32, device=DEVICE)
    query = torch.randn(sequences * new, heads, head_size, device=DEVICE).to(dtype)
    dense = torch.randn(2, sequences, heads, length, head_size, device=DEVICE).to(dtype)
    q = query.view(sequences, new, heads, head_size).transpose(1, 2)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    seconds = interleaved(
        {
            "openreg": lambda: ops.paged_attention(query, key, value, table, starts, lengths),
            "aten": lambda: sdpa(q, dense[0], dense[1], is_causal=new > 1),
        }
    )
    nbytes = 2 * key.nbytes if new == 1 else 0
    line(f"attention {sequences} x {new} of {length} {dtype}"[:34], nbytes, seconds)


def rms_norm(dtype, tokens, width=576):
    x = torch.randn(tokens, width, device=DEVICE).to(dtype)
    weight = torch.ones(width, device=DEVICE, dtype=dtype)
    seconds = interleaved(
        {
            "openreg": lambda: ops.rms_norm(x, weight, 1e-6),
            "aten": lambda: torch.nn.functional.rms_norm(x, (width,), weight, 1e-6),
        }
    )
    line(f"rms_norm {tokens} x {width} {dtype}"[:34], 0, seconds)


def main():
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (1, 2, 4, 8):
            linear(dtype, rows)
        for sequences, length, new in ((1, 1024, 1), (32, 512, 1), (8, 512, 512)):
            attention(dtype, sequences, length, new)
        for tokens in (1, 512):
            rms_norm(dtype, tokens)


if __name__ == "__main__":
    main()
