"""The tokenizer of the toy world: GPT-2's byte-level BPE, as OPT uses it, learned from the few words spoken here.

All 256 bytes are in the vocabulary, so any text can be written; each word of the world, with the blank before it, is
one token. The special tokens have OPT's ids (`<s>` 0, `<pad>` 1, `</s>` 2, `<unk>` 3) and every text begins with
`</s>`. An answer ends with a line break, as BLIP-2's do.
"""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from minivl.demo import questions, world

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
PAD, BOS = 1, 2
IMAGE = "<image>"  # newer transformers mark the soft words' places with it; no text of ours holds it
MORE_WORDS = "zero one two three four shape shapes nothing yes no" + " Question: Short answer: Answer:"


def corpus(seed: int = 0, pictures: int = 4000) -> list[str]:
    """Enough captions, questions and answers to hold every word of the world."""
    rng = random.Random(seed)
    texts = [MORE_WORDS, " " + MORE_WORDS, "a photo of", " a photo of"]
    for scene in islice(world.scenes("train", seed), pictures):
        texts.append(world.caption(scene))
        for kind in questions.KINDS:
            if asked := questions.ask(scene, kind, rng):
                texts.append(f"{questions.prompt(asked[0])} {asked[1]}\n")
    return texts


def learn(texts: list[str]) -> Tokenizer:
    """OPT's tokenizer for these texts."""
    tokenizer = bare(texts)
    tokenizer.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    begin = [("</s>", BOS)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B", special_tokens=begin
    )
    return tokenizer


def bare(texts: list[str]) -> Tokenizer:
    """A byte-level BPE whose merges make one token of every word in these texts; nothing stands around a text yet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,  # more than there are merges to learn
        min_frequency=0,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(sorted(set(texts)), trainer)
    return tokenizer


def save(tokenizer: Tokenizer, folder: Path) -> None:
    """The files of a Hub repository with an OPT tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "add_bos_token": True, "add_prefix_space": False, "bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>",
        "pad_token": "<pad>", "errors": "replace", "model_max_length": 1000000000000000019884624838656,
        "tokenizer_class": "GPT2Tokenizer",
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n")
