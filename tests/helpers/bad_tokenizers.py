"""tokenizer.json files that must be refused."""

import json

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers


def small(post_processor=None):
    """A byte-level BPE that knows the bytes, "he" and "</s>", without holes among its ids."""
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "</s>", "<pad>"]
    backend = Backend(models.BPE({token: i for i, token in enumerate(tokens)}, [("h", "e")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if post_processor:
        backend.post_processor = post_processor
    return backend


def edited(change):
    """tokenizer.json of `small` after `change` has had its way with it."""
    value = json.loads(small().to_str())
    change(value)
    return json.dumps(value)


def put(*path_and_value):
    *path, last, value = path_and_value

    def change(tree):
        for key in path:
            tree = tree[key]
        tree[last] = value

    return change


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


TEMPLATE = [{"SpecialToken": {"id": "X", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]


BAD_JSON = {
    "text": "no json",
    "nothing": "",
    "deep": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "an unknown merge": edited(put("model", "merges", [["h", "zz"]])),
    "an id beyond 32 bits": edited(put("model", "vocab", "he", 10**12)),
    "a negative id": edited(put("model", "vocab", "he", -1)),
    "a merge that overruns": edited(put("model", "continuing_subword_prefix", "abcdefgh")),
    "a broken regex": edited(put("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "((("}})),
    "a regex without end": edited(put("pre_tokenizer", {**SPLIT, "pattern": {"Regex": "(h+h+)+y"}})),
    "a template's missing token": edited(
        put(
            "post_processor", {"type": "TemplateProcessing", "single": TEMPLATE, "pair": TEMPLATE, "special_tokens": {}}
        )
    ),
}
