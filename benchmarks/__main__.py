"""``python -m benchmarks [NAME ...]``: runs the named benchmarks, or all of them."""

import argparse
import importlib
import json
import os
import platform

import torch

NAMES = ["small_operators", "large_operators", "memory", "streams", "training", "llm", "graphs"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--json", help="also write the results to this file")
    parser.add_argument("--threads", type=int, help="intra-op threads (default: torch's own)")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"NAME: expected {', '.join(NAMES)}, got {', '.join(sorted(unknown))}")
    if args.threads:
        torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; "
        "ratio: median [quartiles] of interleaved rounds"
    )
    results = []
    for name in args.names or NAMES:
        print(f"\n{name}")
        for result in importlib.import_module(f"benchmarks.{name}").run():
            print("  " + result.row(), flush=True)
            results.append(vars(result) | {"benchmark": name, "reached": result.reached})
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)


if __name__ == "__main__":
    main()
