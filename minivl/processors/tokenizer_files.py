"""Building a tokenizer from the files of a model's folder, whichever generation of transformers wrote them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..disk import read_json, show
from ..errors import MinivlError, TokenizerError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MOST_BYTES = 64 * 2**20  # of one vocabulary file; the largest real one of this family has 4 MB
NO_LIMIT = 10**24  # the Hub's files write 1e30 for "texts may be as long as they like"
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")
OPTIONS = ("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces")

# What the files of older repositories leave unsaid, by the text model's type.  A decoder continues the end of its row,
# so padding goes to the left of it, whatever a file says; an encoder does not mind, and RoBERTa counts from the left.
NAMES = {
    "opt": {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    "t5": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
    "roberta": dict(zip(SPECIAL, ("<s>", "</s>", "<unk>", "<pad>", "<mask>"), strict=True)),
}
PADDING_SIDE = {"opt": "left", "t5": "right", "roberta": "right"}
# How a text, and a pair of texts, begin and end where tokenizer.json does not say it.
FRAMES = {
    "opt": ("{bos}:0 $A:0", "{bos}:0 $A:0 {bos}:1 $B:1"),
    "roberta": ("{bos}:0 $A:0 {eos}:0", "{bos}:0 $A:0 {eos}:0 {eos}:0 $B:0 {eos}:0"),
}


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a one-line TokenizerError that begins with `name`.

    Its Rust core panics on some malformed files and texts, which reaches Python as a BaseException.
    """
    try:
        yield
    except MinivlError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        raise TokenizerError(f"{name}: the tokenizers library refused it: {what[:200]}") from error


def load(folder: Path, family: str | None = None) -> tuple[Tokenizer, dict[str, Any]]:
    """(the tokenizers library's object, the other fields of `text.Tokenizer`) from a folder.

    tokenizer.json counts first, then vocab.json with merges.txt, the byte-level BPE of OPT and RoBERTa.  Beside them
    tokenizer_config.json, special_tokens_map.json and added_tokens.json name the special and added tokens, each a
    string or {"content": ...}.  `family` is the text model's type, "opt", "t5" or "roberta": it settles the padding
    side, fills in names that no file gives, and where tokenizer.json lacks that step puts OPT's BOS before every text
    (unless add_bos_token is false) or RoBERTa's <s> and </s> around it.
    """
    said = {**_optional(folder / "special_tokens_map.json"), **_optional(folder / "tokenizer_config.json")}
    if (folder / "tokenizer.json").exists():
        backend = _from_json(folder / "tokenizer.json")
    elif (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        backend, family = _from_vocabulary(folder), family or "opt"
    else:
        spiece = "only spiece.model: transformers' AutoTokenizer writes the other when it loads and saves this folder"
        found = spiece if (folder / "spiece.model").exists() else "none of them"
        raise TokenizerError(f"{show(folder)}: wanted tokenizer.json, or vocab.json and merges.txt, found {found}")
    with guarded(show(folder)):
        backend.no_truncation()
        backend.no_padding()
        backend.encode("")  # a frame that names a token it does not have is found out here
        _add_tokens(backend, said, _optional(folder / "added_tokens.json"))
        names = _name_tokens(backend, said, family)
        if said.get("add_bos_token", family in FRAMES) and not backend.num_special_tokens_to_add(False):
            _frame(backend, names, FRAMES.get(family or "", FRAMES["opt"]))
    return backend, {**names, **_options(said, family)}


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path, TokenizerError) if path.exists() else {}


def _checked(path: Path) -> str:
    if not path.is_file() or path.stat().st_size > MOST_BYTES:
        raise TokenizerError(f"{show(path)}: wanted a file of at most {MOST_BYTES} bytes, found something else")
    return str(path)


def _from_json(path: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    with guarded(show(path)):
        return Tokenizer.from_file(_checked(path))


def _from_vocabulary(folder: Path) -> Tokenizer:
    """GPT-2's byte-level BPE: its regex splits the text, no blank is put before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocabulary, merges = _checked(folder / "vocab.json"), _checked(folder / "merges.txt")
    with guarded(show(folder / "vocab.json")):
        backend = Tokenizer(models.BPE.from_file(vocabulary, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: Tokenizer, said: dict[str, Any], added: dict[str, Any]) -> None:
    """Register the tokens that no rule may split, and see that each gets the id that its file gives it."""
    from tokenizers import AddedToken

    listed = said.get("added_tokens_decoder") or {}
    if not isinstance(listed, dict):
        raise TokenizerError(f"added_tokens_decoder: wanted tokens by their ids, found {show(listed)}")
    wanted = [(str(i), token, "added_tokens_decoder") for i, token in listed.items()]
    wanted += [(str(i), token, "added_tokens.json") for token, i in added.items()]
    for i, _, where in wanted:
        if not i.isdecimal():
            raise TokenizerError(f"{where}: wanted ids, whole numbers from 0 up, found {show(i)}")
    for i, token, where in sorted(wanted, key=lambda row: int(row[0])):
        content = _content(token, where)
        flags = {k: v is True for k, v in token.items() if k in FLAGS} if isinstance(token, dict) else {}
        if content not in _known(backend):
            backend.add_tokens([AddedToken(content, **flags)])
        if (found := backend.token_to_id(content)) != int(i):
            raise TokenizerError(f"{where}: wanted id {i} for {show(content)}, found that the vocabulary gives {found}")


def _name_tokens(backend: Tokenizer, said: dict[str, Any], family: str | None) -> dict[str, str]:
    """{"bos_token": "</s>", ...}: what the files say, else the family's habit; all of them registered as special."""
    from tokenizers import AddedToken

    names = {}
    for name in SPECIAL:
        token = said.get(name)
        habit = NAMES.get(family or "", {}).get(name)
        if token:
            names[name] = _content(token, name)
            if backend.token_to_id(names[name]) is None:
                raise TokenizerError(f"{name}: wanted a token of the vocabulary, found {show(names[name])}, not in it")
        elif habit and backend.token_to_id(habit) is not None:
            names[name] = habit
    listed = said.get("additional_special_tokens") or []
    if not isinstance(listed, list):
        raise TokenizerError(f"additional_special_tokens: wanted a list, found {show(listed)}")
    more = [_content(token, "additional_special_tokens") for token in listed]
    known = _known(backend)
    fresh = [token for token in dict.fromkeys([*names.values(), *more]) if not known.get(token)]
    # The blank before a word belongs to the word's token, so RoBERTa's mask, which stands for one, takes it in too.
    mask = said.get("mask_token")
    takes_blank = mask["lstrip"] is True if isinstance(mask, dict) and "lstrip" in mask else family == "roberta"
    backend.add_special_tokens(
        [AddedToken(token, lstrip=takes_blank and token == names.get("mask_token")) for token in fresh]
    )
    return names


def _known(backend: Tokenizer) -> dict[str, bool]:
    """{an added token's text: is it special?}"""
    return {token.content: token.special for token in backend.get_added_tokens_decoder().values()}


def _content(token: Any, name: str) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    if not isinstance(content, str) or not content:
        raise TokenizerError(f'{name}: wanted a string or {{"content": a string}}, found {show(token)}')
    return content


def _frame(backend: Tokenizer, names: dict[str, str], frame: tuple[str, str]) -> None:
    """Have every text begin and end with the family's tokens."""
    from tokenizers import processors

    used = [key for key in ("bos", "eos") if f"{{{key}}}" in frame[0]]
    for key in used:
        if f"{key}_token" not in names:
            raise TokenizerError(f"add_bos_token: wanted a {key}_token to add, found none in the files beside it")
    tokens = {key: names[f"{key}_token"] for key in used}
    single, pair = (template.format(**tokens) for template in frame)
    ids = [(token, backend.token_to_id(token)) for token in tokens.values()]
    backend.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _options(said: dict[str, Any], family: str | None) -> dict[str, Any]:
    """The settings that are no tokens, checked."""
    options = {name: said[name] for name in OPTIONS if said.get(name) is not None}
    side = "right" if str(said.get("tokenizer_class")).startswith("T5") else "left"
    options["padding_side"] = PADDING_SIDE.get(family or "") or options.get("padding_side", side)
    for name in ("padding_side", "truncation_side"):
        if options.get(name, "left") not in ("left", "right"):
            raise TokenizerError(f'{name}: wanted "left" or "right", found {show(options[name])}')
    longest = options.get("model_max_length", NO_LIMIT)
    if isinstance(longest, bool) or not isinstance(longest, (int, float)) or not longest >= 1:
        raise TokenizerError(f"model_max_length: wanted a number above 0, found {show(longest)}")
    options["model_max_length"] = int(min(longest, NO_LIMIT))
    if not isinstance(options.get("clean_up_tokenization_spaces", True), bool):
        found = show(options["clean_up_tokenization_spaces"])
        raise TokenizerError(f"clean_up_tokenization_spaces: wanted true or false, found {found}")
    return options
