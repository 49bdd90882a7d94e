"""Prompts of transformers 5's processor begin with a placeholder for each soft prompt token: they are read as such.

The truth is transformers 5's own model, which puts the picture in the placeholders' stead.
"""

import numpy as np
import oracle
import pytest
import torch
from oracle import draw_blip2, example

from minivl import Blip2ForConditionalGeneration
from minivl.errors import InputError

FAMILIES = ["opt", "t5"]


def drawn(family, seed, folder):
    """Theirs, ours, and pictures, prompts and masks with placeholders in front, as the processor of 5.x writes them."""
    theirs = draw_blip2(seed, family)
    token = theirs.config.text_config.vocab_size - 1
    theirs.config.image_token_index = token
    theirs.save_pretrained(folder)
    pixels, ids, mask = example(theirs, batch=3, seed=seed)
    front = np.full((3, theirs.config.num_query_tokens), token)
    ids, mask = np.concatenate([front, ids], 1), np.concatenate([np.ones_like(front), mask], 1)
    return theirs, Blip2ForConditionalGeneration.from_pretrained(folder), pixels, ids, mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(4))
def test_logits_and_loss_are_theirs(family, seed, tmp_path):
    theirs, ours, pixels, ids, mask = drawn(family, seed, tmp_path)
    labels = np.where(mask == 1, ids, -100)
    labels[:, : theirs.config.num_query_tokens] = -100
    with torch.no_grad():
        want = theirs(*map(torch.from_numpy, (pixels, ids, mask)), labels=torch.from_numpy(labels))
    got = ours(pixels, ids, mask, labels=labels)
    oracle.compare({"logits": got.logits}, {"logits": want.logits.numpy()}, oracle.TOLERANCE["float32"])
    np.testing.assert_allclose(got.loss, want.loss.numpy(), rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_text_is_that_of_the_prompt_without_them(family, tmp_path):
    theirs, ours, pixels, ids, mask = drawn(family, 3, tmp_path)
    places = theirs.config.num_query_tokens
    got = ours.generate(pixels, ids, mask, max_new_tokens=5)
    np.testing.assert_array_equal(got, ours.generate(pixels, ids[:, places:], mask[:, places:], max_new_tokens=5))
    other = pixels[::-1].copy()
    assert not np.allclose(ours(other, ids, mask, labels=ids).logits, ours(pixels, ids, mask, labels=ids).logits)


@pytest.mark.parametrize("change", ["one too few", "one too many", "in the middle", "hidden"])
def test_placeholders_anywhere_else_are_refused(change, tmp_path):
    theirs, ours, pixels, ids, mask = drawn("opt", 3, tmp_path)
    token = theirs.config.image_token_index
    if change == "one too few":
        ids, mask = ids[:, 1:], mask[:, 1:]
    elif change == "one too many":
        ids, mask = np.insert(ids, 0, token, 1), np.insert(mask, 0, 1, 1)
    elif change == "in the middle":
        ids = ids.copy()
        ids[1, -1] = token
    else:
        mask = mask.copy()
        mask[0, 0] = 0
    with pytest.raises(InputError, match="placeholder"):
        ours(pixels, ids, mask)
    with pytest.raises(InputError, match="placeholder"):
        ours.generate(pixels, ids, mask)
