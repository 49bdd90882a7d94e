"""The nested outputs of a model as flat dicts."""

import torch


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else x


def flat(output, prefix=""):
    """Every array of an output under a dotted name: vision_outputs.hidden_states.0, ..."""
    items = output.items() if hasattr(output, "items") else enumerate(output)
    for key, value in items:
        if isinstance(value, tuple) or hasattr(value, "items"):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", numpy(value)


def unstacked(arrays):
    """hidden_states as one array for all layers, back to hidden_states.0, hidden_states.1, ..."""
    for name, array in arrays.items():
        if name.endswith(("hidden_states", "attentions")):
            yield from ((f"{name}.{i}", layer) for i, layer in enumerate(array))
        else:
            yield name, array


def layout(output):
    if isinstance(output, tuple):
        return [layout(part) for part in output]
    return "x".join(map(str, output.shape)) or "scalar"
