"""The usual suspects: each change that could be behind a difference, and what the activation would be with it.

around       what is known around a layer: the norm before it, its heads, what the stream held
tensors      B's own weights, called by how they differ, and the weights of other layers
fitted       changes whose size is read off the difference: a factor, an element, an eps, a scale
linear       bias, order, rounding of a linear layer; what goes wrong unseen just before it
activations  the function between an MLP's matrices, and T5's gate
norms        eps, weights, kind and place of a norm, the summands of a post-LN layer, BridgeTower's links
attention    masks, scale, order of q, k and v, heads, T5's position bias
sums         residuals, learned positions, the class token, token types
tables       rows of a table: where positions count from, T5's buckets
pictures     the first layer of the picture
ends         logits and loss

All of them are generators of (change, array): an array is made when it is asked for and let go before the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ....ops import TABLE
from ..flow import Parting
from . import activations, attention, ends, linear, norms, pictures, sums, tables
from .around import Call, Try, as_double, rounded_results

KINDS: dict[str, Callable[[Parting, Call], Iterator[Try]]] = {  # by the op that made the activation, or its kind
    "linear": linear.linear,
    "linear_act": activations.linear_act,
    "gated": activations.gated,
    "norm": norms.norm,
    "attention": attention.attention,
    "sum": sums.residual,
    "embeddings": sums.embeddings,
    "embed": tables.embed,
    "patch_embed": pictures.patches,
}


def suspects(parting: Parting) -> Iterator[Try]:
    """Each change, and what the first activation that differs would be with it."""
    call = parting.item.call
    if call is None:
        yield from ends.ends(parting)
        return
    kind = call.op if call.op in KINDS or call.op not in TABLE else TABLE[call.op].kind
    if kind in KINDS:
        yield from KINDS[kind](parting, as_double(call))
    if parting.item.key[0].endswith(".self_ln"):
        yield from norms.after_the_sum(parting)
    yield from rounded_results(parting)
