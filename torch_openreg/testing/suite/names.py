"""The same test under the CPU's and the device's name.

PyTorch makes `TestFooCPU.test_bar_cpu_float32` and `TestFooACME.test_bar_acme_float32` of one
template. What they share is the key `TestFoo.test_bar_{device}_float32`.
"""

import re
from collections.abc import Iterable

DEVICE = "{device}"

# Names of dtypes without a list of torch's, which this process does not import.
_DTYPE = re.compile(
    r"_(bool|bfloat16|float8_[a-z0-9]+|float4_[a-z0-9]+_x2|float(?:16|32|64)|complex(?:32|64|128)|q?u?int\d\d?)(?=_|$)"
)


def candidates(method: str, device: str) -> list[str]:
    """Return the keys that a method's name may stand for, the likeliest first.

    The device's name can occur more than once (`test_copy_to_cpu_cpu_float32`): PyTorch appends
    its own last, before the dtypes.

    >>> candidates("test_to_cpu_cpu_float32", "cpu")
    ['test_to_cpu_{device}_float32', 'test_to_{device}_cpu_float32']
    """
    words = method.split("_")
    pieces = device.split("_")
    found = []
    for start in range(len(words) - len(pieces), 0, -1):
        if words[start : start + len(pieces)] == pieces:
            after = words[start + len(pieces) :]
            found.append("_".join([*words[:start], DEVICE, *after]))
    return found


def match(on_cpu: Iterable[str], on_device: Iterable[str], device: str) -> dict[str, str | None]:
    """Return the CPU's name of each of the device's tests, None where the CPU has no such test.

    Args:
        on_cpu: names as `TestFoo.test_bar_cpu`.
        on_device: names as `TestFoo.test_bar_acme`.
        device: the device type's name, `acme`.
    """
    cpu_names = {}
    for name in on_cpu:
        owner, _, method = name.partition(".")
        # The likeliest key of one test must not be taken by a less likely one of another.
        for rank, key in enumerate(candidates(method, "cpu")):
            known = cpu_names.get((owner, key))
            if known is None or rank < known[0]:
                cpu_names[owner, key] = rank, name
    matched = {}
    for name in on_device:
        owner, _, method = name.partition(".")
        found = (cpu_names.get((owner, key)) for key in candidates(method, device))
        matched[name] = next((entry[1] for entry in found if entry), None)
    return matched


def dtype_of(method: str, device: str) -> str | None:
    """Return the dtype that PyTorch appended to a device's test name, the first of several."""
    keys = candidates(method, device)
    suffix = keys[0].rpartition(DEVICE)[2] if keys else ""
    found = _DTYPE.match(suffix)
    return found and found[1]
