"""Writes docs/bring-up.md from the steps: `python -m torch_openreg.testing.bringup.guide PATH`."""

import sys
from pathlib import Path

from torch_openreg.testing.bringup.all_steps import STEPS

#: Where a report points to.
PAGE = "docs/bring-up.md"

_HEAD = """# Bringing up a device

What a backend provides for PyTorch, step by step, from its name to a transformer. Each step is a
test of

```sh
python -m torch_openreg.testing device --device acme --module torch_acme
```

which does all of them, whatever fails, each where a crash or a hang costs only itself. A step that
fails says which hook, operator or name is missing, as far as PyTorch's messages and the
dispatcher's table tell, and points here. `--steps stream-wait` does one alone, `--list` lists them.

The backend is an out-of-tree one, on PyTorch's dispatch key PrivateUse1; "acme" is its name here.
`aten::` names are operators to register with `TORCH_LIBRARY_IMPL(aten, PrivateUse1, m)`; names of
C++ classes are methods to override; `torch.acme.` names belong into the device module. What is
optional says so, and a backend without it still passes. [architecture.md](architecture.md) says in
which file openreg has each of them.

This page is written by `python -m torch_openreg.testing.bringup.guide docs/bring-up.md`.
"""


def page() -> str:
    """Return the text of the page."""
    blocks = [_HEAD.rstrip()]
    part = None
    for step in STEPS.values():
        if step.part != part:
            part = step.part
            blocks.append(f"## {part.capitalize()}")
        heading = f"### {step.name}"
        title, _, advice = step.text.partition("\n\n")
        if step.optional:
            title = f"*Optional.* {title}"
        blocks += [heading, _flow(title), *map(_flow, advice.split("\n\n"))]
        if step.needs:
            needs = [need.replace("{device}", "acme") for need in step.needs]
            blocks.append("\n".join(["Needs:", "", *(f"- {_quoted(need)}" for need in needs)]))
    return "\n\n".join(blocks) + "\n"


def _flow(text):
    return "\n".join(line.strip() for line in text.splitlines())


def _quoted(need):
    name, word, rest = need.partition(" for the dispatch key ")
    if word:
        return f"`{name}`{word}`{rest}`"
    is_name = not any(character in need for character in " (")
    return f"`{need}`" if is_name else need


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
