"""A side that is transformers' model, watched by hooks on the modules that our tables of names know."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property, partial, reduce
from typing import Any, NamedTuple

import numpy as np

from ...api.blip2 import Blip2ForConditionalGeneration
from ...api.pretrained import Pretrained
from ...errors import InputError, OpsError
from ...tracing import Item, hub_modules
from ...weights import files, places, tree
from . import families
from .float64 import FLOAT64
from .ours import Emit, Ours, emit_results, eps_of
from .settings import consequences


def package() -> Any:
    """The package transformers, told to be quiet. Raises OpsError where it is not installed."""
    try:
        import transformers
    except ModuleNotFoundError as missing:
        raise OpsError(
            f"side 'transformers' needs package {missing.name!r}, which is not installed: pip install 'minivl[test]'"
        ) from missing
    transformers.logging.set_verbosity_error()
    with suppress(AttributeError):
        transformers.logging.disable_progress_bar()
    return transformers


def load(folder: Any, family: type[Pretrained], settings: Mapping[str, Any], dtype: str) -> Any:
    """transformers' model of a checkpoint, some settings of its configuration changed, its numbers of this kind."""
    transformers = package()
    import torch

    path, how = places.find(folder), {}
    if settings:
        how["config"] = transformers.AutoConfig.from_pretrained(path)
        for name, value in consequences(family.config_class.from_pretrained(path), settings).items():
            *parts, last = name.split(".")
            setattr(reduce(getattr, parts, how["config"]), last, value)
    name = next(cls.__name__ for cls in family.__mro__ if hasattr(transformers, cls.__name__))
    with _told_in_one_line(f"reading {folder}"):
        module, told = getattr(transformers, name).from_pretrained(
            path, attn_implementation="eager", local_files_only=True, output_loading_info=True, **how
        )
    if missing := sorted(told["missing_keys"]):  # transformers would go on with random ones
        raise InputError(f"side 'transformers': {folder} lacks {len(missing)} tensors that it wants, as {missing[0]}")
    return module.to(getattr(torch, dtype))


@contextmanager
def _told_in_one_line(what: str) -> Iterator[None]:
    """Whatever transformers raises becomes an InputError, so that the command can say it and end."""
    try:
        yield
    except Exception as problem:
        said = " ".join(str(problem).split())
        raise InputError(
            f"side 'transformers': {what} failed in transformers: {type(problem).__name__}: {said}"
        ) from problem


class Point(NamedTuple):
    """One place where a module is watched."""

    module: Any
    path: str  # in our tree
    where: str  # the word that our own side has for this activation: "in", "out" or "act"
    turn: Callable[[Any], Any]  # makes our layout of the tensor
    before: bool  # what the module is given, and not what it makes


class Theirs:
    """A model of transformers, watched by hooks on the modules that our tables name."""

    def __init__(self, module: Any, label: str):
        self.module, self.label, self.exact = module.eval(), label, False
        self.family = families.by_name(type(module).__name__)
        self.config: Any = self.family.config_class.from_dict(module.config.to_dict())
        self.modules = hub_modules(self.family.table(self.config))
        self.dtype = next(module.parameters()).dtype
        self.eps = eps_of(self.dtype)
        paths = {hub: path for path, hub in self.modules.items()} | {"language_model.lm_head": "language.head"}
        self.points = list(_points(module, paths))
        self.watched = {(point.path, point.where) for point in self.points} | {("logits", "out"), ("loss", "out")}

    def provides(self, key: tuple[str, str, int]) -> bool:
        return key[:2] in self.watched

    def _watch(self, emit: Emit) -> list[Any]:
        """Hooks that emit what comes by; their handles."""
        counts: dict[tuple[str, str], int] = {}

        def keep(point: Point, tensor: Any) -> None:
            key = point.path, point.where
            counts[key] = counts.get(key, 0) + 1
            emit(Item((*key, counts[key]), point.path, point.turn(tensor), None))

        def hook(point: Point) -> Any:
            if point.before:
                return point.module.register_forward_pre_hook(lambda _, given: keep(point, given[0]))
            return point.module.register_forward_hook(
                lambda _, __, made: keep(point, made[0] if isinstance(made, tuple) else made)
            )

        return [hook(point) for point in self.points]

    def run(self, inputs: Mapping[str, Any], emit: Emit) -> None:
        """One pass; every activation, then logits and loss."""
        import torch

        given = {name: torch.as_tensor(np.asarray(x)) for name, x in inputs.items() if name != "return_loss"}
        given["pixel_values"] = given["pixel_values"].to(self.dtype)
        handles = self._watch(emit)
        try:
            with torch.no_grad(), _told_in_one_line("the model"):
                if self.family is Blip2ForConditionalGeneration:
                    logits, loss = _run_blip2(self.module, **given)
                else:
                    asked = {"return_loss": True} if inputs.get("return_loss") else {}
                    output = self.module(**given, **asked)
                    logits, loss = getattr(output, "logits", None), getattr(output, "loss", None)
        finally:
            for handle in handles:
                handle.remove()
        emit_results(emit, logits, loss)

    @cached_property
    def tensors(self) -> dict[str, Any]:
        """The tensors by their paths in our tree."""
        names = {entry.path: entry.hub for entry in self.family.table(self.config) if isinstance(entry, tree.Entry)}
        found = self.module.state_dict()
        return {path: found[name] for path, name in names.items() if name in found}

    def weight(self, path: str) -> Any:
        """The tensor at a path of our tree, or None."""
        return self.tensors.get(path)

    def judge(self) -> Ours:
        """Ours in float64 with these weights."""
        tensors = {}
        for name, tensor in self.module.state_dict().items():
            if tensor.is_floating_point():
                tensors[name] = files.Stored("F32", tensor.detach().cpu().float().numpy(), name)
        table, ignored = list(self.family.table(self.config)), self.family.ignored
        tensors = self.family.adapted(tensors, self.config, self.label)
        names = {name for e in table if isinstance(e, tree.Entry) for name in (e.hub, *e.aliases)} | set(ignored)
        params = tree.build(table, {n: t for n, t in tensors.items() if n in names}, self.label, ignored=ignored)
        return Ours(self.family(self.config, params=params), f"{self.label} in float64", ops=FLOAT64)


def _run_blip2(model, pixel_values, input_ids, attention_mask, labels=None, **words):
    """Logits and loss: the three models one after the other, picture first, as 4.37 wires them; newer versions want
    placeholders in the text for the picture, and then do the same.
    """
    import torch

    image = model.vision_model(pixel_values=pixel_values).last_hidden_state
    queries = model.query_tokens.expand(len(image), -1, -1)
    seen = model.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state
    soft, language = model.language_projection(seen), model.language_model
    embeds = torch.cat([soft, language.get_input_embeddings()(input_ids).to(soft.dtype)], 1)
    mask = torch.cat([torch.ones(soft.shape[:2], dtype=attention_mask.dtype), attention_mask], 1)
    if model.config.text_config.model_type == "t5":
        words = {name: x for name, x in words.items() if name.startswith("decoder_")}
        output = language(inputs_embeds=embeds, attention_mask=mask, labels=labels, **words)
        return output.logits, output.loss
    logits, loss = language(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits, None
    if labels is not None:
        logits = logits[:, -labels.shape[1] :]
        flat = logits[:, :-1].reshape(-1, logits.shape[-1])
        loss = torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1))
    return logits, loss


# ---- what can be watched -------------------------------------------------------------------------
def _points(model: Any, paths: Mapping[str, str]) -> Iterator[Point]:
    """Every module that makes, or is given, what our side emits as well.   paths   {module: path in our tree}"""
    import torch

    for name, module in model.named_modules():
        is_clip = ".resblocks." in name
        turn, path, kind = _batch_first if is_clip else _as_it_is, paths.get(name, ""), type(module).__name__
        if isinstance(module, torch.nn.MultiheadAttention):  # CLIP's: its two matrices are no modules that run
            yield Point(module, paths[f"{name}.in_proj_weight"], "out", partial(_fused, module), True)
            yield Point(module, paths[f"{name}.out_proj"], "out", turn, False)
        elif f"{name}.dense" in paths and name.endswith("_pooler"):
            yield Point(module, paths[f"{name}.dense"], "act", _as_it_is, False)
        if not path or is_clip and name.endswith("attn.out_proj"):
            continue
        if isinstance(module, torch.nn.Conv2d):
            yield Point(module, path, "out", lambda y: y.flatten(2).swapaxes(1, 2), False)
        elif isinstance(module, torch.nn.Embedding):
            yield Point(module, path, "out", _as_it_is, False)
        elif isinstance(module, torch.nn.Linear) or kind.endswith("Norm"):
            if kind.endswith("Norm") or path.rpartition(".")[2] in ("out", "down", "head"):
                yield Point(module, path, "in", turn, True)
            if path != "mlm.decoder":  # ours has its bias, theirs adds it later
                yield Point(module, path, "out", turn, False)


def _as_it_is(y: Any) -> Any:
    return y


def _batch_first(y: Any) -> Any:
    """CLIP's layers have the tokens before the batch."""
    return y.swapaxes(0, 1) if y.ndim == 3 else y


def _fused(module: Any, x: Any) -> Any:
    """q, k and v in one, which CLIP's attention makes first of what it is given, by no module of its own."""
    import torch

    return torch.nn.functional.linear(_batch_first(x), module.in_proj_weight, module.in_proj_bias)
