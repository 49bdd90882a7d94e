"""BridgeTower's classes: models/bridgetower.py behind the names and arguments of transformers 4.37."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from ..config.bridgetower import BridgeTowerConfig
from ..errors import InputError, WeightsError
from ..inputs import same_rows, to_array, to_floats, to_ids, to_prompt
from ..models import bridgetower, clip_vit
from ..ops.numpy import by_rows
from ..outputs import BridgeTowerOutput, ContrastiveOutput, HeadOutput, Output, RetrievalOutput
from ..tracing import watch_attention
from ..weights import files, names, tree
from .pretrained import Pretrained, Tensors

if TYPE_CHECKING:
    from ..player import AttentionTrace

TRUNK = "bridgetower."  # what stands before the trunk's names in a file that holds heads too
HEADS = {"mlm_score.": names.masked_lm_head, "itm_score.": names.matching_head, "itc_": names.contrastive_head}
HEAD_NAMES = (*HEADS, "logit_scale")


class Flow(NamedTuple):
    """What one pass over the trunk leaves for the heads."""

    text_tower: Any  # (B, T, C), the last state of the text tower
    image_tower: Any  # (B, N, M), the last one of the vision tower that is used
    text: Any  # (B, T, C) after the last cross-modal layer
    image: Any  # (B, N, C)
    pooled: Any  # (B, 2·C)
    shown: dict[str, Any]  # hidden_states, attentions and cross_attentions, where they were asked for


class BridgeTower(Pretrained):
    """What the five classes share: files with and without heads, and the pass over the trunk."""

    config_class = BridgeTowerConfig
    ignored = (
        *("text_model.embeddings.position_ids", f"{TRUNK}text_model.embeddings.position_ids"),
        *("vision_model.visual.embeddings.position_ids", f"{TRUNK}vision_model.visual.embeddings.position_ids"),
        "mlm_score.decoder.weight",  # where it is tied, a copy of the word embeddings
    )
    heads: ClassVar[tuple[str, ...]] = ()
    always_states = False  # whether hidden states are given unasked
    output: Callable[..., Output]  # (flow, what was asked) -> what this class makes of it

    @classmethod
    def table(cls, config: BridgeTowerConfig) -> Iterator[tree.Entry | tree.Constant]:
        """The trunk, named as the class's own files name it, and the class's heads."""
        for entry in names.bridgetower(config):
            yield entry._replace(hub=TRUNK + entry.hub) if isinstance(entry, tree.Entry) and cls.heads else entry
        for head in cls.heads:
            yield from HEADS[head](config)

    @staticmethod
    def spread(config: BridgeTowerConfig) -> float:
        return 0.05 * config.initializer_factor

    @classmethod
    def adapted(cls, tensors: Tensors, config: BridgeTowerConfig, where: str) -> Tensors:
        """The trunk loads from a file with heads and from one without; heads that this class has not are passed over.

        A head that it has and the file has not starts at random, as in transformers, with a warning that says so.
        """
        twice = [name for name in tensors if TRUNK + name in tensors]
        if twice:
            raise WeightsError(f"{where}: wanted tensor {twice[0]} once, found it also as {TRUNK + twice[0]}")
        trunk = {name.removeprefix(TRUNK): t for name, t in tensors.items() if not name.startswith(HEAD_NAMES)}
        found = {TRUNK + name if cls.heads else name: t for name, t in trunk.items()}
        for head in cls.heads:
            entries = [entry for entry in HEADS[head](config) if isinstance(entry, tree.Entry)]
            if any(entry.hub in tensors for entry in entries):
                found |= {name: t for name, t in tensors.items() if name.startswith(head) or name == entries[-1].hub}
            else:
                warnings.warn(f"{where} holds no {head}* weights: this head starts at random", stacklevel=3)
                fresh = tree.random(entries, np.random.default_rng(0), cls.spread(config))
                found |= {name: files.Stored("F32", a) for name, a in tree.flatten(entries, fresh).items()}
        return found

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        pixel_values: Any = None,
        pixel_mask: Any = None,
        *,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        image_embeds: Any = None,
        image_token_type_idx: int | None = None,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool | None = True,
        **asked: Any,
    ) -> Any:
        """One pass over pairs of text and picture.

        input_ids, attention_mask (B, T)   pixel_values (B, 3, Y, X), or image_embeds (B, N, M) in their place
        asked: labels or return_loss, see the class's `output`
        token_type_ids, pixel_mask, head_mask and inputs_embeds are taken and not used, as in transformers.
        """
        inspect.signature(self.output).bind(None, **asked)  # a TypeError for an unknown name, before any work is done
        flow = self._flow(
            self._words(input_ids, attention_mask),
            self._picture(pixel_values, image_embeds),
            image_token_type_idx=image_token_type_idx,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states or self.always_states,
        )
        output = self.output(flow, **asked)
        return output.to_tuple() if return_dict is False else output

    def trace(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        pixel_values: Any = None,
        pixel_mask: Any = None,
        *,
        tokenizer: Any = None,
    ) -> AttentionTrace:
        """What text and picture look at in every cross-modal layer, of one pair, as named arrays.

        tokenizer   a tokenizer or a processor: names the words; without it they are numbers
        ->  AttentionTrace (player/record.py): named arrays that can be saved as a page and seen in a notebook
        """
        from ..player.bridgetower import trace

        return trace(self, input_ids, attention_mask, pixel_values, tokenizer)

    def _flow(
        self,
        words: tuple[Any, Any],
        picture: Any,
        *,
        image_token_type_idx: int | None,
        output_attentions: bool,
        output_hidden_states: bool,
    ) -> Flow:
        """One pass over both towers, the bridges and the cross-modal layers."""
        ops, p, c = self.ops, self.params, self.config
        ids, mask = words
        same_rows(len(picture), len(ids))
        if image_token_type_idx not in (None, 0, 1):
            raise InputError(f"image_token_type_idx {image_token_type_idx!r}: the token types are 0 and 1")

        def towers(ids: Any, mask: Any, picture: Any) -> Any:
            """The last states of the towers, the vector of the pair, all states and all maps, of some of the pairs."""
            texts = bridgetower.text_tower(ops, p, ids, mask, c)
            images = bridgetower.image_tower(ops, p, picture, c)
            maps: list[Any] = []
            watched = watch_attention(ops, maps) if output_attentions else ops
            pairs = list(bridgetower.fuse(watched, p, texts, images, mask, c, image_token_type_idx or 1))
            last = (texts[-1], images[-1], *pairs[-1], bridgetower.pool(ops, p, *pairs[-1]))
            return last, (texts, images, pairs) if output_hidden_states else (), maps

        last, states, maps = by_rows(ops, towers, ids, mask, picture)
        shown: dict[str, Any] = {}
        if output_hidden_states:
            texts, images, pairs = states
            shown["hidden_states"] = (tuple(texts), tuple(x.swapaxes(0, 1) for x in images), tuple(pairs))
        if output_attentions:  # each pair of layers: text over text, text over picture, picture over picture, over text
            layers = [maps[i : i + 4] for i in range(0, len(maps), 4)]
            shown["attentions"] = tuple((own_text, own_image) for own_text, _, own_image, _ in layers)
            shown["cross_attentions"] = tuple((to_image, to_text) for _, to_image, _, to_text in layers)
        return Flow._make((*last, shown))

    def _words(self, input_ids: Any, attention_mask: Any) -> tuple[Any, Any]:
        ids, mask = to_prompt(input_ids, attention_mask)
        return self.ops.from_numpy(ids), self.ops.from_numpy(mask)

    def _picture(self, pixel_values: Any, image_embeds: Any = None) -> Any:
        """What the vision tower starts from: the embedded pixels, or what the caller gives in their place."""
        if image_embeds is not None:
            embeds, width = to_floats(image_embeds, "image_embeds", 3), self.config.vision_config.hidden_size
            if embeds.shape[2] != width:
                raise InputError(f"image_embeds have shape {embeds.shape}, this model takes (batch, patches, {width})")
            return self.ops.from_numpy(embeds)
        pixels = self.ops.from_numpy(to_floats(pixel_values, "pixel_values", 4))
        return clip_vit.embed(self.ops, self.params["vision"], pixels, self.config.vision_config)

    def _matching(self, flow: Flow, labels: Any) -> HeadOutput:
        logits, loss = bridgetower.match(self.ops, self.params, flow.pooled), None
        if labels is not None:
            targets = to_ids(to_array(labels).reshape(-1, 1), "labels")[:, 0]
            if len(targets) != len(logits):
                raise InputError(f"{len(targets)} labels for {len(logits)} pairs: give one label, 0 or 1, for each")
            loss = self.ops.cross_entropy(logits, self.ops.from_numpy(targets))
        return HeadOutput(loss, logits, **flow.shown)

    def _contrast(self, flow: Flow, with_loss: bool) -> ContrastiveOutput:
        ops, p = self.ops, self.params
        text = bridgetower.text_vector(ops, p, flow.text_tower)
        image = bridgetower.image_vector(ops, p, flow.image_tower, self.config)
        cross = bridgetower.contrast(ops, p, flow.pooled, "cross")
        logits, loss = ops.concat([x[:, None] for x in (text, image, cross)], 1), None
        if with_loss:  # each text knows its picture among all, and so on: one direction each, as in transformers
            scale, order = math.e ** p["itc"]["scale"], ops.from_numpy(np.arange(len(text)))
            pairs = ((text, image), (text, cross), (image, cross))
            loss = sum(ops.cross_entropy(a @ b.swapaxes(0, 1) * scale, order) for a, b in pairs) / 3
        return ContrastiveOutput(loss, logits, text, image, cross, **flow.shown)


class BridgeTowerModel(BridgeTower):
    """The trunk alone.   Source: BridgeTowerModel in transformers 4.37."""

    def output(self, flow: Flow) -> BridgeTowerOutput:
        return BridgeTowerOutput(flow.text, flow.image, flow.pooled, **flow.shown)


class BridgeTowerForMaskedLM(BridgeTower):
    """Which words belong where the text says <mask>.   Source: BridgeTowerForMaskedLM in transformers 4.37."""

    heads = ("mlm_score.",)

    def output(self, flow: Flow, labels: Any = None) -> HeadOutput:
        """labels (B, T), -100 where nothing is asked   ->   logits (B, T, V)"""
        logits, loss = bridgetower.fill(self.ops, self.params, flow.text, self.config), None
        if labels is not None:
            targets, wanted = to_ids(labels, "labels"), tuple(logits.shape[:2])
            if targets.shape != wanted:
                raise InputError(f"labels have shape {targets.shape}, input_ids {wanted}: they must be equal")
            loss = self.ops.cross_entropy(logits, self.ops.from_numpy(targets))
        return HeadOutput(loss, logits, **flow.shown)


class BridgeTowerForImageAndTextRetrieval(BridgeTower):
    """Do text and picture belong together?   Source: BridgeTowerForImageAndTextRetrieval in transformers 4.37."""

    heads = ("itm_score.",)

    def output(self, flow: Flow, labels: Any = None) -> HeadOutput:
        """labels (B,), 1 where they do   ->   logits (B, 2), no and yes"""
        return self._matching(flow, labels)


class Vectors(BridgeTower):
    """What the two classes with contrastive heads share: each tower alone."""

    def get_text_features(self, input_ids: Any, attention_mask: Any = None) -> Any:
        """Vectors of texts alone, (B, K) and of length 1; a product with a picture's vector says how well they fit."""
        ids, mask = self._words(input_ids, attention_mask)
        texts = bridgetower.text_tower(self.ops, self.params, ids, mask, self.config)
        return bridgetower.text_vector(self.ops, self.params, texts[-1])

    def get_image_features(self, pixel_values: Any) -> Any:
        """Vectors of pictures alone, (B, K) and of length 1."""
        images = bridgetower.image_tower(self.ops, self.params, self._picture(pixel_values), self.config)
        return bridgetower.image_vector(self.ops, self.params, images[-1], self.config)


class BridgeTowerForContrastiveLearning(Vectors):
    """Vectors of texts, pictures and pairs.   Source: BridgeTowerForContrastiveLearning in transformers 4.37."""

    heads = ("itc_",)
    always_states = True

    def output(self, flow: Flow, return_loss: bool = False) -> ContrastiveOutput:
        """logits (B, 3, K), the vectors of text, picture and pair; hidden states are always given"""
        return self._contrast(flow, return_loss)


class BridgeTowerForMatchingAndContrast(Vectors):
    """Both heads that compare, from one pass over the trunk. transformers has no such class."""

    heads = ("itm_score.", "itc_")

    def output(self, flow: Flow, labels: Any = None, return_loss: bool = False) -> RetrievalOutput:
        """labels and logits as in the two classes; the loss is the sum of what labels and return_loss ask for"""
        matching, contrast = self._matching(flow, labels), self._contrast(flow, return_loss)
        losses = [part.loss for part in (matching, contrast) if part.loss is not None]
        return RetrievalOutput(sum(losses) if losses else None, matching, contrast)
