"""The sides of a comparison: our model on one of its backends, transformers' model, our float64 run as the judge.

    KIND             numpy, torch, triton, float64, int8 (LLM.int8()), weight-only (8 bits), bfloat16 (NumPy's),
                     torch-bfloat16, torch-float16, triton-bfloat16, triton-float16, transformers,
                     transformers-bfloat16, transformers-float16
    FOLDER_OR_ID     numpy on another checkpoint
    KIND@FOLDER      that kind on another checkpoint

Every side runs the model on the same inputs and emits its activations (minivl/trace.py's Item) one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from ..config_base import FILE
from ..config_bridgetower import BridgeTowerConfig
from ..disk import read_json
from ..errors import ConfigError, InputError, OpsError
from ..faces import bridgetower as bridges
from ..faces.blip2 import Blip2ForConditionalGeneration
from ..faces.pretrained import Pretrained
from ..ops import Ops, numpy_ops
from ..quant import Int8, Narrow, in_full
from ..trace import Item, Tracer, hub_modules, paths_of
from ..weights import files, tree

KINDS: dict[str, dict[str, Any]] = {  # how from_pretrained makes each
    "numpy": {},
    "float64": {},
    "torch": {"backend": "torch"},
    "triton": {"backend": "triton"},
    "int8": {"load_in_8bit": True},
    "weight-only": {"load_in_8bit": "weight-only"},
    "bfloat16": {"dtype": "bfloat16"},
    **{
        f"{backend}-{dtype}": {"backend": backend, "dtype": dtype}
        for backend in ("torch", "triton")
        for dtype in ("bfloat16", "float16")
    },
}
THEIRS = {"transformers": "float32", "transformers-bfloat16": "bfloat16", "transformers-float16": "float16"}
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
HEADS: dict[str, type[bridges.BridgeTower]] = {
    "itm": bridges.BridgeTowerForImageAndTextRetrieval,
    "mlm": bridges.BridgeTowerForMaskedLM,
    "contrastive": bridges.BridgeTowerForContrastiveLearning,
    "model": bridges.BridgeTowerModel,
}
BEGINNINGS = {"itm": "itm_score.", "mlm": "mlm_score.", "contrastive": "itc_"}
Emit = Callable[[Item], None]


# ---- our model in float64 ------------------------------------------------------------------------
def double(value: Any) -> Any:
    """Any array of numbers, of any backend and of fewer bits, as float64; whole numbers and all else stay."""
    if isinstance(value, Int8):
        return value.rows * (value.scale[:, None] / np.float64(127))
    if isinstance(value, Narrow):
        return in_full(value).astype(np.float64)
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.double().numpy() if value.is_floating_point() else value.numpy()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f":
        return np.asarray(value, np.float64)
    return value


def numbers(tensor: Any) -> np.ndarray:
    """A tensor's numbers as float32, without a copy where it holds that."""
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


PIECE = 1 << 24  # numbers of a matrix widened at a time


def _linear(x, w, b=None):
    x, rows = double(x), max(1, PIECE // max(1, w.shape[1]))
    if isinstance(w, Narrow) or w.shape[0] <= rows:
        y = numpy_ops.linear(x, double(w))
    else:
        y = np.concatenate([numpy_ops.linear(x, double(w[i : i + rows])) for i in range(0, w.shape[0], rows)], -1)
    return y if b is None else y + double(b)


def _embed(ids, table):
    ids = double(ids)
    return double(table)[ids] if isinstance(table, Narrow) else double(numpy_ops.embed(ids, np.asarray(double(table))))


def _widened(function):
    return lambda *args, **how: function(*map(double, args), **{name: double(value) for name, value in how.items()})


PLAIN = (
    *("layer_norm", "add_layer_norm", "rms_norm", "attention", "attention_weights", "gelu", "gelu_tanh", "quick_gelu"),
    *("relu", "silu", "tanh", "softmax", "patch_embed", "cross_entropy", "to_numpy"),
)
FLOAT64: Ops = numpy_ops.OPS._replace(
    **{name: _widened(getattr(numpy_ops.OPS, name)) for name in PLAIN},
    linear=_linear,
    linear_act=lambda x, w, b=None, *, act: getattr(numpy_ops.OPS, act)(_linear(x, w, b)),
    embed=_embed,
    concat=lambda arrays, axis: np.concatenate([double(a) for a in arrays], axis),
    broadcast_to=lambda x, shape: np.broadcast_to(double(x), shape),
    from_numpy=double,
)


# ---- sides ---------------------------------------------------------------------------------------
class Ours:
    """A model of minivl. `ops` is its record, or FLOAT64 for the judge."""

    def __init__(self, model: Pretrained, label: str, *, ops: Ops | None = None):
        self.model, self.label, self.ops = model, label, ops or model.ops
        self.family = type(model)
        self.modules = hub_modules(model.table(model.config))
        self.exact = self.ops is FLOAT64
        self.eps = EPS.get(str(getattr(model, "dtype", "float32")).removeprefix("torch."), EPS["float32"])

    def provides(self, key: tuple[str, str, int]) -> bool:
        return True

    def run(self, inputs: Mapping[str, Any], emit: Emit) -> None:
        """One pass; every activation, then logits and loss."""
        model: Any = type(self.model)(self.model.config, ops=self.ops, params=self.model.params)
        model.ops = Tracer(paths_of(model.params), emit).wrap(self.ops)
        given = {name: inputs[name] for name in inputs if name != "return_loss" or inputs[name]}
        output = model(**given)
        for name in ("logits", "loss"):
            if (value := getattr(output, name, None)) is not None:
                emit(Item((name, "out", 1), name, value, None))

    def weight(self, path: str) -> Any:
        """What stands at a path of the tree, or None."""
        node: Any = self.model.params
        for part in path.split("."):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            elif isinstance(node, dict) and part in node:
                node = node[part]
            else:
                return None
        return node

    def judge(self) -> Ours:
        """The same weights and configuration in float64; weights stay as they are kept and are widened when used."""
        model = self.model
        if model.ops.name != "numpy":
            params = tree.map_leaves(numbers, model.params)
            model = type(model)(model.config, ops=numpy_ops.OPS, params=params)
        return Ours(model, f"{self.label} in float64", ops=FLOAT64)


class Theirs:
    """A model of transformers, watched by hooks on the modules that our tables name."""

    def __init__(self, module: Any, label: str):

        self.module, self.label, self.exact = module.eval(), label, False
        name = type(module).__name__
        classes: list[type[Pretrained]] = [Blip2ForConditionalGeneration, *HEADS.values()]
        found = {cls.__name__: cls for cls in classes}
        if name not in found:
            raise InputError(f"a model of transformers of class {name}: wanted one of {', '.join(found)}")
        self.family = found[name]
        self.config: Any = self.family.config_class.from_dict(module.config.to_dict())
        self.modules = hub_modules(self.family.table(self.config))
        self.paths = {hub: path for path, hub in self.modules.items()}
        self.paths |= {"language_model.lm_head": "language.head"}
        self.dtype = next(module.parameters()).dtype
        self.eps = EPS.get(str(self.dtype).removeprefix("torch."), EPS["float32"])
        self.points = list(self._points())
        self.watched = {(path, "out" if path.endswith(".qkv") else where) for _, path, where, _ in self.points} | {
            ("logits", "out"),
            ("loss", "out"),
        }

    def provides(self, key: tuple[str, str, int]) -> bool:
        return key[:2] in self.watched

    def _points(self) -> Iterator[tuple[Any, str, str, Callable[[Any], Any]]]:
        """What can be watched: module, path, "in" or "out" or "act", and what makes our layout of the tensor."""
        import torch

        for name, module in self.module.named_modules():
            path, turned = self.paths.get(name, ""), _turned if ".resblocks." in name else _same
            kind = type(module).__name__
            if isinstance(module, torch.nn.MultiheadAttention):  # CLIP's: its two matrices are no modules that run
                yield module, self.paths[f"{name}.in_proj_weight"], "in", partial(_fused, module)
                yield module, self.paths[f"{name}.out_proj"], "out", _turned
            elif f"{name}.dense" in self.paths and name.endswith("_pooler"):
                yield module, self.paths[f"{name}.dense"], "act", _same
            if not path or name.endswith("attn.out_proj") and ".resblocks." in name:
                continue
            if isinstance(module, torch.nn.Conv2d):
                yield module, path, "out", lambda y: y.flatten(2).swapaxes(1, 2)
            elif isinstance(module, torch.nn.Embedding):
                yield module, path, "out", _same
            elif isinstance(module, torch.nn.Linear) or kind.endswith("Norm"):
                if kind.endswith("Norm") or path.rpartition(".")[2] in ("out", "down", "head"):
                    yield module, path, "in", turned
                if path != "mlm.decoder":  # ours has its bias, theirs adds it later
                    yield module, path, "out", turned

    def _watch(self, emit: Emit) -> list[Any]:
        counts: dict[tuple[str, str], int] = {}

        def keep(path: str, where: str, tensor: Any) -> None:
            count = counts[path, where] = counts.get((path, where), 0) + 1
            emit(Item((path, where, count), path, tensor, None))

        def hook(module: Any, path: str, where: str, turn: Callable[[Any], Any]) -> Any:
            if where == "in":
                is_fused = path.endswith(".qkv")  # what it is given becomes q, k and v: the output of a layer of ours
                seen = "out" if is_fused else "in"
                return module.register_forward_pre_hook(lambda _m, given: keep(path, seen, turn(given[0])))
            return module.register_forward_hook(
                lambda _m, _given, y: keep(path, where, turn(y[0] if isinstance(y, tuple) else y))
            )

        return [hook(*point) for point in self.points]

    def run(self, inputs: Mapping[str, Any], emit: Emit) -> None:
        """One pass; every activation, then logits and loss."""
        import torch

        given = {name: torch.as_tensor(np.asarray(x)) for name, x in inputs.items() if name != "return_loss"}
        given["pixel_values"] = given["pixel_values"].to(self.dtype)
        handles = self._watch(emit)
        try:
            with torch.no_grad():
                if self.family is Blip2ForConditionalGeneration:
                    logits, loss = self._blip2(torch, **given)
                else:
                    asked = {"return_loss": True} if inputs.get("return_loss") else {}
                    output = self.module(**given, **asked)
                    logits, loss = getattr(output, "logits", None), getattr(output, "loss", None)
        finally:
            for handle in handles:
                handle.remove()
        for name, value in (("logits", logits), ("loss", loss)):
            if value is not None:
                emit(Item((name, "out", 1), name, value, None))

    def _blip2(self, torch, pixel_values, input_ids, attention_mask, labels=None, **words):
        """The three models one after the other, picture first, as 4.37 wires them; newer versions want placeholders in
        the text for the picture, and then do the same.
        """
        m = self.module
        image = m.vision_model(pixel_values=pixel_values).last_hidden_state
        queries = m.query_tokens.expand(len(image), -1, -1)
        soft = m.language_projection(m.qformer(query_embeds=queries, encoder_hidden_states=image).last_hidden_state)
        embeds = torch.cat([soft, m.language_model.get_input_embeddings()(input_ids).to(soft.dtype)], 1)
        mask = torch.cat([torch.ones(soft.shape[:2], dtype=attention_mask.dtype), attention_mask], 1)
        if self.config.text_config.model_type == "t5":
            words = {name: x for name, x in words.items() if name.startswith("decoder_")}
            output = m.language_model(inputs_embeds=embeds, attention_mask=mask, labels=labels, **words)
            return output.logits, output.loss
        logits, loss = m.language_model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits, None
        if labels is not None:
            logits = logits[:, -labels.shape[1] :]
            flat = logits[:, :-1].reshape(-1, logits.shape[-1])
            loss = torch.nn.functional.cross_entropy(flat, labels[:, 1:].reshape(-1))
        return logits, loss

    def weight(self, path: str) -> Any:
        """The tensor at a path of our tree, or None."""
        if not hasattr(self, "tensors"):
            names = {entry.path: entry.hub for entry in self.family.table(self.config) if isinstance(entry, tree.Entry)}
            found = self.module.state_dict()
            self.tensors = {path: found[name] for path, name in names.items() if name in found}
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


def _same(y: Any) -> Any:
    return y


def _turned(y: Any) -> Any:
    """CLIP's layers have the tokens before the batch."""
    return y.swapaxes(0, 1) if y.ndim == 3 else y


def _fused(module: Any, x: Any) -> Any:
    """What CLIP's attention makes of its input first, which no module of its own does."""
    import torch

    return torch.nn.functional.linear(_turned(x), module.in_proj_weight, module.in_proj_bias)


# ---- from words to sides -------------------------------------------------------------------------
def held(path: Any) -> list[type[Pretrained]]:
    """The classes of the models that a folder's files hold weights for: one for each head."""
    if read_json(path / FILE, ConfigError).get("model_type") != BridgeTowerConfig.model_type:
        return [Blip2ForConditionalGeneration]
    names = list(files.read(path))
    found: list[type[Pretrained]] = [
        HEADS[head] for head, begin in BEGINNINGS.items() if any(name.startswith(begin) for name in names)
    ]
    return found or [bridges.BridgeTowerModel]


def is_kind(word: Any) -> bool:
    return isinstance(word, str) and (word in KINDS or word in THEIRS)


def split(word: str) -> tuple[str, str | None]:
    """ "torch@folder" is ("torch", "folder"), "torch" ("torch", None), "folder" ("numpy", "folder")."""
    kind, at, folder = word.partition("@")
    if at and is_kind(kind):
        return kind, folder
    return (word, None) if is_kind(word) else ("numpy", word)


def make(word: str, folder: Any, family: type[Pretrained], settings: Mapping[str, Any]) -> Ours | Theirs:
    """The side of this kind: a checkpoint's folder read as `family`, some settings of its configuration changed."""
    label = " ".join([word, *(f"{name}={json.dumps(value)}" for name, value in settings.items())])
    if word in THEIRS:
        return Theirs(_load_theirs(folder, family, settings, THEIRS[word]), label)
    if settings:
        family = type(family.__name__, (family,), {"config_class": _Changed(family.config_class, settings)})
    model = family.from_pretrained(folder, **KINDS[word])
    return Ours(model, label, ops=FLOAT64 if word == "float64" else None)


class _Changed:
    """Stands where a configuration's class is asked to read a folder, and changes what it has read."""

    def __init__(self, kind: Any, settings: Mapping[str, Any]):
        self.kind, self.settings = kind, settings

    def from_pretrained(self, folder: Any) -> Any:
        return changed(self.kind.from_pretrained(folder), self.settings)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kind, name)


def changed(config: Any, settings: Mapping[str, Any]) -> Any:
    """The configuration with {"vision_config.layer_norm_eps": 1e-5}. Raises InputError for a name that it has not."""
    values = config.to_dict()
    for name, value in settings.items():
        *parts, last = name.split(".")
        node: Any = values
        for part in parts:
            node = node.get(part) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            known = ", ".join(sorted(node if isinstance(node, dict) else values))
            raise InputError(f"setting {name!r} does not exist: wanted the path of one, as {known}")
        node[last] = value
    return type(config).from_dict(values)


def _load_theirs(folder: Any, family: type[Pretrained], settings: Mapping[str, Any], dtype: str) -> Any:
    transformers = theirs()
    import torch

    path, how = files.find(folder), {}
    if settings:
        config = transformers.AutoConfig.from_pretrained(path)
        changed(family.config_class.from_pretrained(path), settings)  # for its refusals
        for name, value in settings.items():
            *parts, last = name.split(".")
            node = config
            for part in parts:
                node = getattr(node, part)
            setattr(node, last, value)
        how["config"] = config
    name = next(cls.__name__ for cls in family.__mro__ if hasattr(transformers, cls.__name__))
    module = getattr(transformers, name).from_pretrained(
        path, attn_implementation="eager", local_files_only=True, **how
    )
    return module.to(getattr(torch, dtype))


def theirs() -> Any:
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


# ---- inputs --------------------------------------------------------------------------------------
def seeded(family: type[Pretrained], config: Any, seed: int = 0) -> dict[str, Any]:
    """Two pictures of noise, two texts of random words, one of them padded, and labels: what every side is given."""
    rng, c = np.random.default_rng(seed), config.text_config
    size = config.vision_config.image_size
    is_blip2 = family is Blip2ForConditionalGeneration
    rows, words = 2, min(7, c.max_position_embeddings - 4) if hasattr(c, "max_position_embeddings") else 7
    if hasattr(c, "max_position_embeddings") and is_blip2:
        words = max(1, min(7, c.max_position_embeddings - config.num_query_tokens))
    special = {getattr(c, name, None) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    usual = np.array([i for i in range(min(c.vocab_size, 30000)) if i not in special] or [0])
    ids = rng.choice(usual, (rows, words))
    mask = np.ones((rows, words), np.int64)
    if words > 2:
        mask[1, : words // 3] = 0
    if not is_blip2:
        mask = mask[:, ::-1].copy()
    pad = getattr(c, "pad_token_id", None)
    ids = np.where(mask == 1, ids, usual[0] if pad is None else pad)
    given = {
        "pixel_values": rng.normal(size=(rows, 3, size, size)).astype(np.float32),
        "input_ids": ids,
        "attention_mask": mask,
    }
    return given | asked(family, config, given, rng)


def asked(family: type[Pretrained], config: Any, given: Mapping[str, Any], rng: Any) -> dict[str, Any]:
    """Labels, so that there is a loss."""
    ids, mask = np.asarray(given["input_ids"]), np.asarray(given["attention_mask"])
    name = family.__name__
    if name == "Blip2ForConditionalGeneration" and config.text_config.model_type == "t5":
        if config.text_config.decoder_start_token_id is None or config.text_config.pad_token_id is None:
            return {"decoder_input_ids": ids}
        return {"labels": rng.integers(0, config.text_config.vocab_size, (len(ids), 5))}
    if name in ("Blip2ForConditionalGeneration", "BridgeTowerForMaskedLM"):
        return {"labels": np.where(mask == 1, ids, -100)} if ids.shape[1] > 1 else {}
    if name == "BridgeTowerForImageAndTextRetrieval":
        return {"labels": np.arange(len(ids)) % 2}
    return {"return_loss": True} if name == "BridgeTowerForContrastiveLearning" else {}


def looked_at(family: type[Pretrained], config: Any, folder: Any, picture: Any, text: str | None) -> dict[str, Any]:
    """A picture and a text as the checkpoint's own processor makes them; noise or random words for the one missing."""
    from ..processors.blip2 import Blip2Processor
    from ..processors.bridgetower import BridgeTowerProcessor

    given = {name: np.asarray(x)[:1] for name, x in seeded(family, config).items() if name != "return_loss"}
    processor: Any = Blip2Processor if family is Blip2ForConditionalGeneration else BridgeTowerProcessor
    processor = processor.from_pretrained(folder)
    if picture is not None:
        given["pixel_values"] = np.asarray(processor.image_processor(picture, return_tensors="np").pixel_values)
    if text is not None:
        words = processor.tokenizer(text, return_tensors="np")
        given |= {name: np.asarray(words[name]) for name in ("input_ids", "attention_mask")}
    plain = {name: given[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    return plain | asked(family, config, plain, np.random.default_rng(0))
