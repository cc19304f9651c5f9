"""Benchmarks: openreg against plain CPU PyTorch, in one process, interleaved, medians."""
