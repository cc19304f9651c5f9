"""Large operators until complete, against the CPU's."""

import torch
import torch.nn.functional as F

from .measure import DEVICE, Result, compare, seconds, until_complete


def operators(device: str) -> dict:
    """Operators whose time is arithmetic or memory, as functions without arguments."""
    m32 = torch.randn(1024, 1024, device=device)
    m16 = m32.to(torch.bfloat16)
    square = torch.randn(4096, 4096, device=device)
    weight = torch.ones(4096, device=device)
    long = torch.randn(16 * 2**20, device=device)
    q = torch.randn(1, 16, 1024, 64, device=device)
    return {
        "mm 1024³ float32": lambda: m32 @ m32,
        "mm 1024³ bfloat16": lambda: m16 @ m16,
        "softmax 4096²": lambda: torch.softmax(square, -1),
        "layer_norm 4096²": lambda: F.layer_norm(square, (4096,), weight, weight),
        "add of 16M": lambda: long + long,
        "mul_ of 16M": lambda: long.mul_(1.0),
        "SDPA (1,16,1024,64)": lambda: F.scaled_dot_product_attention(q, q, q),
    }


def run() -> list[Result]:
    cpu, device = operators("cpu"), operators(DEVICE)
    return [
        compare(
            name,
            lambda name=name: seconds(cpu[name]),
            lambda name=name: until_complete(device[name]),
            target=1.0,
            rounds=9,
        )
        for name in cpu
    ]
