"""Test files of another version than torch's.

PyTorch's test files import helpers from `torch.testing._internal`, which come and go. A file of a
neighbouring version would not even load for a name that three of its thousand tests use. Here such
a name gets what it is called now, where that is known, or a stand-in: what uses it is skipped, the
same for the CPU and the device, and the rest of the file runs.
"""

import importlib
import re
import sys
import types
import unittest

_TRIES = 100
# By module and name: what does the same, for the same arguments, in another version.
_RENAMED = {
    "torch.testing._internal.common_mkldnn.bf32_on_and_off": "reduced_f32_on_and_off",
}


class Gone:
    """Stands in for a name that torch no longer has.

    It can be called, subscripted, iterated over and added to a list, is false, and has any
    attribute. A function that it decorates skips.
    """

    def __init__(self, name: str):
        self._name = name

    def __call__(self, *args, **kwargs):
        if len(args) == 1 and not kwargs and isinstance(args[0], types.FunctionType):
            return unittest.skip(f"uses {self._name}, which this torch does not have")(args[0])
        return self

    def __getattr__(self, name):
        # Python's own protocols and torch's override protocol must find nothing.
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __add__(self, other):
        return other

    __radd__ = __or__ = __ror__ = __add__

    def __bool__(self):
        return False

    def __iter__(self):
        return iter(())

    def __getitem__(self, _):
        return self

    def __mro_entries__(self, _):
        return (unittest.TestCase,)

    def __repr__(self):
        return f"<{self._name}, which this torch does not have>"


def load(name: str) -> tuple[types.ModuleType, list[str]]:
    """Import a test file; return it and the names of torch's that it needs and that have stand-ins.

    Raises:
        Exception: what the import raised, if no missing name of torch's is the cause.
    """
    gone = []
    while True:
        try:
            return importlib.import_module(name), gone
        except ImportError as error:
            missing = _missing(error)
            if missing is None or missing in gone or len(gone) == _TRIES:
                raise
            sys.modules.pop(name, None)  # Half imported.
            if _provide_renamed(missing):
                continue
            if not gone:
                _allow_empty_lists()
            gone.append(missing)


def _missing(error):
    """Provide what an import did not find; return its name, None if it is not torch's."""
    if isinstance(error, ModuleNotFoundError):
        if not _is_torchs(error.name):
            return None
        sys.modules[error.name] = _gone_module(error.name)
        return error.name
    found = re.match(r"cannot import name '(\w+)' from '([\w.]+)'", str(error))
    if found is None or not _is_torchs(found[2]):
        return None
    missing = f"{found[2]}.{found[1]}"
    setattr(sys.modules[found[2]], found[1], Gone(missing))
    return missing


def _provide_renamed(missing):
    """Put the helper that replaces `missing`, if there is one, in the stand-in's place."""
    module, _, name = missing.rpartition(".")
    now = getattr(sys.modules.get(module), _RENAMED.get(missing, ""), None)
    if now is None or isinstance(now, Gone):
        return False
    setattr(sys.modules[module], name, now)
    return True


def _allow_empty_lists():
    """Let a template whose list of operators is gone make no tests, instead of raising."""
    from torch.testing._internal.common_device_type import ops

    parametrize = ops._parametrize_test

    def lenient(self, test, generic_cls, device_cls):
        if self.op_list:
            yield from parametrize(self, test, generic_cls, device_cls)

    ops._parametrize_test = lenient


def _is_torchs(module):
    return (module or "").partition(".")[0] in ("torch", "functorch", "caffe2")


def _gone_module(name):
    module = types.ModuleType(name)
    module.__path__ = []
    module.__getattr__ = lambda attribute: Gone(f"{name}.{attribute}")
    return module
