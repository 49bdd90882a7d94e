"""The sides that are not ours: torch and transformers, which need not be there."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

NEEDED = ("torch", "transformers")


def missing() -> list[str]:
    """Which of the packages that the other sides need are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def ready(threads: int) -> None:
    """torch on as many threads as we have."""
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def frozen(run: Callable[..., Any]) -> Callable[..., Any]:
    """A function under torch.inference_mode(), as fast as torch can."""
    import torch

    return torch.inference_mode()(run)


def kinds() -> dict[str, Any]:
    """The dtypes that transformers is timed in."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}


def in_8_bits(make: Callable[..., Any], config: Any, tensors: Any) -> Any:
    """A module of transformers with torch's dynamic 8 bits: weights rounded once, activations for each product.

    Linear layers are rounded one by one, so that the whole is never in memory as float32.
    """
    import torch

    from .weights import module_of

    module = module_of(make, config, tensors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch says that this way will go; the other one is not part of torch
        from torch.ao.quantization import default_dynamic_qconfig as how
        from torch.ao.quantization import quantize_dynamic

        for parent in list(module.modules()):
            for name, child in list(parent.named_children()):
                if isinstance(child, torch.nn.Linear):
                    plain = torch.nn.Sequential(torch.nn.Linear(1, 1, device="meta"))
                    plain[0] = in_float32(child)
                    setattr(parent, name, quantize_dynamic(plain, {torch.nn.Linear: how}, inplace=True)[0])
    for part in module.modules():  # embeddings and norms
        for name, weight in list(part.named_parameters(recurse=False)):
            setattr(part, name, torch.nn.Parameter(weight.detach().float(), requires_grad=False))
    return module


def in_float32(layer: Any) -> Any:
    """A copy of a linear layer whose numbers are float32."""
    import torch

    out, into = layer.weight.shape
    copy = torch.nn.Linear(into, out, bias=layer.bias is not None, device="meta").eval()
    copy.weight = torch.nn.Parameter(layer.weight.detach().float(), requires_grad=False)
    if layer.bias is not None:
        copy.bias = torch.nn.Parameter(layer.bias.detach().float(), requires_grad=False)
    return copy
