"""Callables whose forward and backward are graphs: torch.openreg.make_graphed_callables."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils import _pytree

from torch_openreg.openreg import streams
from torch_openreg.openreg.devices import synchronize


class _GraphedCallable:
    """One callable with its two graphs and the tensors at the graphs' ends."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], allow_unused: bool
    ) -> None:
        from torch_openreg.openreg.graphs import Graph

        self.function = function
        self.arguments = arguments
        self.allow_unused = allow_unused
        self.forward_graph = Graph()
        self.backward_graph = Graph()
        self.user_inputs = tuple(_pytree.arg_tree_leaves(*arguments))
        parameters = tuple(function.parameters()) if isinstance(function, torch.nn.Module) else ()
        self.inputs = self.user_inputs + parameters
        self.outputs: tuple[torch.Tensor, ...] = ()
        self.output_spec: _pytree.TreeSpec | None = None
        self.output_grads: tuple[torch.Tensor | None, ...] = ()
        self.input_grads: tuple[torch.Tensor | None, ...] = ()
        self._check()

    def _check(self) -> None:
        for value in self.user_inputs:
            if not isinstance(value, torch.Tensor):
                raise TypeError(
                    f"sample_args must contain only tensors, but got {type(value).__name__}"
                )
        if isinstance(self.function, torch.nn.Module):
            module = self.function
            if module._backward_hooks or module._forward_hooks or module._forward_pre_hooks:
                raise ValueError("a module must not have hooks when it is graphed; add them later")
            if any(buffer.requires_grad for buffer in module.buffers()):
                raise ValueError("a graphed module's buffers must not require gradients")

    def _gradients(
        self, outputs: Iterable[torch.Tensor], output_grads: Iterable[torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, ...]:
        """Return a gradient for each of `inputs`, None where it needs none."""
        pairs = [
            (output, grad)
            for output, grad in zip(outputs, output_grads, strict=True)
            if output.requires_grad
        ]
        wanted = [tensor for tensor in self.inputs if tensor.requires_grad]
        if not pairs or not wanted:
            return (None,) * len(self.inputs)
        grads = iter(
            torch.autograd.grad(
                [output for output, _ in pairs],
                wanted,
                [grad for _, grad in pairs],
                only_inputs=True,
                allow_unused=self.allow_unused,
            )
        )
        return tuple(next(grads) if tensor.requires_grad else None for tensor in self.inputs)

    def warm_up(self, iterations: int) -> None:
        for _ in range(iterations):
            outputs = _pytree.tree_leaves(self.function(*self.arguments))
            self._gradients(outputs, [torch.empty_like(output) for output in outputs])

    def capture_forward(self, pool: tuple[int, int]) -> None:
        from torch_openreg.openreg.graphs import graph

        with graph(self.forward_graph, pool=pool):
            result = self.function(*self.arguments)
        leaves, self.output_spec = _pytree.tree_flatten(result)
        self.outputs = tuple(leaves)

    def capture_backward(self, pool: tuple[int, int]) -> None:
        from torch_openreg.openreg.graphs import graph

        self.output_grads = tuple(
            torch.empty_like(output) if output.requires_grad else None for output in self.outputs
        )
        if not any(grad is not None for grad in self.output_grads):
            self.input_grads = (None,) * len(self.inputs)
            return
        with graph(self.backward_graph, pool=pool):
            self.input_grads = self._gradients(self.outputs, self.output_grads)

    def replay_forward(self, user_inputs: Iterable[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        for static, given in zip(self.user_inputs, user_inputs, strict=True):
            if static.data_ptr() != given.data_ptr():
                static.copy_(given)
        self.forward_graph.replay()
        return tuple(output.detach() for output in self.outputs)

    def replay_backward(
        self, grads: Iterable[torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, ...]:
        for static, given in zip(self.output_grads, grads, strict=True):
            if static is not None and given is not None and static.data_ptr() != given.data_ptr():
                static.copy_(given)
        self.backward_graph.replay()
        return tuple(None if grad is None else grad.detach() for grad in self.input_grads)

    def callable(self) -> Callable[..., Any]:
        """Return the function to call in place of the original one."""
        graphed = self

        class Graphed(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
                return graphed.replay_forward(inputs[: len(graphed.user_inputs)])

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(ctx: Any, *grads: torch.Tensor | None) -> Any:
                return graphed.replay_backward(grads)

        def call(*arguments: Any) -> Any:
            user_inputs = _pytree.arg_tree_leaves(*arguments)
            parameters = graphed.inputs[len(graphed.user_inputs) :]
            outputs = Graphed.apply(*user_inputs, *parameters)
            return _pytree.tree_unflatten(outputs, graphed.output_spec)

        return call


def _replace_forward(module: torch.nn.Module, call: Callable[..., Any]) -> torch.nn.Module:
    """Let the module use the graphs in the mode, training or not, that they were captured in."""
    original = module.forward
    was_training = module.training

    def forward(*arguments: Any, **keywords: Any) -> Any:
        chosen = call if module.training == was_training else original
        return chosen(*arguments, **keywords)

    module.forward = forward
    return module


def make_graphed_callables(
    callables: Any,
    sample_args: tuple[Any, ...],
    num_warmup_iters: int = 3,
    allow_unused_input: bool = False,
    pool: tuple[int, int] | None = None,
) -> Any:
    """Return versions of functions or modules whose forward and backward are graphs.

    As torch.cuda.make_graphed_callables: each is one autograd node, not differentiable
    twice. Modules are changed in place; in the other mode (training or eval) than
    they were captured in, they run as before.

    Args:
        callables: a function or torch.nn.Module, or a tuple of them, in the order in
            which they will run; they share a memory pool.
        sample_args: a tuple of tensors, or of such tuples; the sizes, dtypes and
            requires_grad of the later arguments.
        num_warmup_iters (int): runs before the capture; default 3.
        allow_unused_input (bool): whether inputs may get no gradient; default False.
        pool (tuple of two ints, optional): memory pool; default a new one.

    Raises:
        RuntimeError: autocast with its cache is active.
        TypeError: the arguments hold something else than tensors.
        ValueError: a module has hooks or buffers that require gradients, or the
            numbers of callables and of `sample_args` differ.
    """
    from torch_openreg.openreg.graphs import graph_pool_handle

    if torch.is_autocast_enabled("openreg") and torch.is_autocast_cache_enabled():
        raise RuntimeError(
            "make_graphed_callables does not support autocast's cache; use cache_enabled=False"
        )
    is_single = not isinstance(callables, tuple)
    functions = (callables,) if is_single else callables
    samples = (sample_args,) if is_single else sample_args
    if len(functions) != len(samples):
        raise ValueError(
            f"sample_args must have an entry for each of the {len(functions)} callables, "
            f"but has {len(samples)}"
        )
    graphed = [
        _GraphedCallable(function, arguments, allow_unused_input)
        for function, arguments in zip(functions, samples, strict=True)
    ]
    pool = graph_pool_handle() if pool is None else pool

    synchronize()
    with streams.stream(streams.Stream()):
        for one in graphed:
            one.warm_up(num_warmup_iters)
    synchronize()

    # In the order in which they will run: they share memory.
    for one in graphed:
        one.capture_forward(pool)
    for one in reversed(graphed):
        one.capture_backward(pool)

    results = []
    for one in graphed:
        call = one.callable()
        is_module = isinstance(one.function, torch.nn.Module)
        results.append(_replace_forward(one.function, call) if is_module else call)
    return results[0] if is_single else tuple(results)
