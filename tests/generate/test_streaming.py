"""Streaming and stop strings: pieces of text as they come, whole characters only, and an end where a string says so."""

import numpy as np
import pytest
import transformers
from hypothesis import example, given
from hypothesis import strategies as st
from oracle import GOLDEN, golden_inputs

from minivl import Blip2ForConditionalGeneration, Blip2Processor
from minivl.errors import InputError
from minivl.generate import Settings, TextStreamer, Tokens, cut, run
from minivl.generate.settings import listed
from minivl.processors.tokenizer import Tokenizer

OPT = Tokenizer.from_pretrained(GOLDEN / "opt_words")
PICTURE = "tutorials/pictures/red_circle.png"


class Pieces(list):
    """A streamer that keeps what it is given."""

    def put(self, ids):
        self.append(np.asarray(ids).tolist())

    def end(self):
        self.append("end")


class Says:
    """A reader that says one text to every row, over and over."""

    def __init__(self, ids, rows=1, vocabulary=50272):
        self.ids, self.rows, self.vocabulary, self.place = ids, rows, vocabulary, -1

    def step(self, tokens):
        self.place += 1
        logits = np.zeros((self.rows, self.vocabulary), np.float32)
        logits[:, self.ids[self.place % len(self.ids)]] = 30
        return logits

    def reorder(self, rows):
        self.rows = len(rows)


def say(text, rows=1, **how):
    """What run() makes of a model that says this text, token by token, and then "\\n"."""
    ids = OPT(text, add_special_tokens=False)["input_ids"] if isinstance(text, str) else text
    return run(Says([*ids, 50118], rows), rows, Settings.of(max_new_tokens=80, **how), Tokens(2, 50118, 1))


# ---- the protocol --------------------------------------------------------------------------------
def test_a_streamer_is_given_the_first_token_then_each_one_then_the_end():
    got = Pieces()
    ids = say([5, 6, 7], streamer=got)
    assert got == [[[2]], [5], [6], [7], [50118], "end"] and ids.tolist() == [[2, 5, 6, 7, 50118]]


def test_with_several_rows_it_is_given_all_of_them():
    got = Pieces()
    ids = say([5, 6], rows=2, streamer=got, do_sample=True, num_return_sequences=2, seed=0)
    assert got[0] == [[2]] * 4
    assert np.column_stack([got[0], *[np.array(piece)[:, None] for piece in got[1:-1]]]).tolist() == ids.tolist()


def test_transformers_own_streamer_works(capsys):
    streamer = transformers.TextStreamer(OPT, skip_prompt=True, skip_special_tokens=True)
    say(" two cats laying on a couch", streamer=streamer)
    assert capsys.readouterr().out.strip() == "two cats laying on a couch"


def test_ours_prints_if_nothing_else_is_said(capsys):
    say(" two cats", streamer=TextStreamer(OPT))
    assert capsys.readouterr().out == " two cats\n"


def test_one_streamer_can_be_used_again_and_writes_one_row_only():
    pieces = []
    streamer = TextStreamer(OPT, pieces.append)
    say(" a cat", streamer=streamer)
    say(" a dog", streamer=streamer)
    assert "".join(pieces) == " a cat\n a dog\n"
    pieces.clear()
    streamer = TextStreamer(OPT, pieces.append, stop="cat")
    say(" a cat", streamer=streamer)
    say(" a dog", streamer=streamer)
    assert "".join(pieces) == " a  a dog\n"
    with pytest.raises(InputError, match="writes one text, and there are 2"):
        say(" a cat", rows=2, streamer=streamer)


def test_beams_cannot_be_streamed():
    with pytest.raises(InputError, match="streamer"):
        say("a", num_beams=2, streamer=Pieces())


# ---- the pieces ----------------------------------------------------------------------------------
def stream(ids, **how):
    """(the pieces, the ids)"""
    pieces = []
    streamer = TextStreamer(OPT, pieces.append, **how)
    streamer.put(np.array([[2]]))
    for token in ids:
        streamer.put(np.array([token]))
    streamer.end()
    return pieces


HARD = st.text(alphabet=list(" .,'?!nmsvetrd\nab🙂東é👩\u200d\ufffd"), max_size=12)


@given(HARD)
def test_together_the_pieces_are_what_decode_gives(text):
    ids = OPT(text, add_special_tokens=False)["input_ids"]
    assert "".join(stream(ids)) == OPT.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(3, 50264), max_size=8))
def test_so_they_are_for_tokens_that_make_no_text(ids):
    assert "".join(stream(ids)) == OPT.decode(ids, skip_special_tokens=True)


@given(st.text(alphabet=list(" ' .!nmsvert"), max_size=12), st.sampled_from([(), "'", " ", ["n't", ". "]]))
@example("it ' .", ())
@example(" n ' t", ())
@example("  's", ())
def test_so_they_are_for_tokens_of_one_letter(text, stop):
    """Then every state of a text is seen on its way: "it '" and "it ' " before "it ' .", which is "it '."."""
    ids = [OPT.backend.token_to_id(letter.replace(" ", "Ġ")) for letter in text]
    assert "".join(stream(ids, stop=stop)) == cut(OPT.decode(ids), tuple(listed(stop)))


@given(st.text(alphabet=list("🙂東é👩\u200d a"), max_size=12))
def test_no_piece_holds_half_a_character(text):
    assert not any("\ufffd" in piece for piece in stream(OPT(text, add_special_tokens=False)["input_ids"]))


def test_a_character_of_several_tokens_comes_whole():
    ids = OPT("🙂🙂", add_special_tokens=False)["input_ids"]
    assert len(ids) > 2 and stream([*ids, 10, 16433])[:2] == ["🙂", "🙂"]


def test_words_come_one_by_one_and_at_once():
    ids = OPT("there are two cats laying", add_special_tokens=False)["input_ids"]
    assert stream(ids) == ["there", " are", " two", " cats", " laying"]


def test_blanks_that_decoding_takes_out_never_show():
    ids = OPT(" it 's , they do n't .", add_special_tokens=False)["input_ids"]
    pieces = stream(ids)
    assert "".join(pieces) == " it's, they don't." and len(pieces) > 2


def test_a_streamer_stops_before_a_stop_string_even_if_it_comes_in_parts():
    ids = OPT("one. two? three. four", add_special_tokens=False)["input_ids"]
    assert "".join(stream(ids, stop="? th")) == "one. two"
    assert "".join(stream(ids, stop="two? ")) == "one. "  # all of it but its last character was there a token earlier
    assert "".join(stream(ids, stop=["? thx", "nothing"])) == "one. two? three. four"
    assert "".join(stream(ids, stop=["four", ". f", "o?"])) == "one. tw"
    assert stream(ids, stop="one. two") == []  # longer than all that is there while it comes
    assert stream(ids, stop="x" * 99) == ["one. two? three. four"]


# ---- stop strings --------------------------------------------------------------------------------
def test_a_text_ends_with_the_token_that_completes_a_stop_string():
    ids = say("one. two? three. four", stop="?", tokenizer=OPT)
    assert OPT.decode(ids[0], skip_special_tokens=True) == "one. two?"
    ids = say("one. two? three. four", stop=[" thr", "four"], tokenizer=OPT)
    assert OPT.decode(ids[0], skip_special_tokens=True) == "one. two? thre"
    assert say("one. two", stop=["three"], tokenizer=OPT)[0, -1] == 50118


class Chorus(Says):
    """Each row says its own text."""

    def step(self, tokens):
        self.place += 1
        logits = np.zeros((len(self.ids), self.vocabulary), np.float32)
        for row, ids in zip(logits, self.ids, strict=True):
            row[ids[self.place] if self.place < len(ids) else 50118] = 30
        return logits


def test_each_row_stops_by_itself_and_goes_on_with_padding():
    said = [OPT(text, add_special_tokens=False)["input_ids"] for text in ("one. two", "one two three four", "one")]
    ids = run(Chorus(said, 3), 3, Settings(stop=".", tokenizer=OPT), Tokens(2, 50118, 1))
    assert OPT.batch_decode(ids, skip_special_tokens=True) == ["one.", "one two three four\n", "one\n"]
    assert ids[0, -1] == 1


def test_a_stop_string_is_not_looked_for_in_the_prompt_or_among_special_tokens():
    ids = say([100, 101], stop=["</s>"], tokenizer=OPT)
    assert ids.tolist() == [[2, 100, 101, 50118]]


class Branches:
    """A reader of letters: "a" or "b", "b" a little less likely, then ".", then "c" for ever."""

    letters = "_abc.!"

    def __init__(self):
        self.rows = 1

    def step(self, tokens):
        logits = np.full((self.rows, 6), -30.0)
        for i in range(self.rows):
            last = 0 if tokens is None else tokens[i]
            logits[i, [1, 2] if last == 0 else [4] if last in (1, 2) else [3]] = 0
        logits[:, 2] -= 0.5
        return logits

    def reorder(self, rows):
        self.rows = len(rows)

    def decode(self, ids, skip_special_tokens=False):
        return "".join(self.letters[i] for i in ids)


def test_the_first_token_is_not_part_of_the_text():
    reader = Branches()
    assert run(reader, 1, Settings(stop="_", tokenizer=reader), Tokens(0, None, 0)).shape == (1, 20)


@pytest.mark.parametrize("early", [True, False, "never"])
def test_beams_end_at_stop_strings_too_and_keep_them(early):
    reader = Branches()
    how = Settings(num_beams=2, num_return_sequences=2, stop=".", tokenizer=reader, early_stopping=early)
    ids = run(reader, 1, how, Tokens(0, None, 0))
    assert ids.tolist() == [[0, 1, 4], [0, 2, 4]]


def test_when_a_stop_string_ends_every_beam_at_once_the_search_is_over():
    reader = Branches()
    how = Settings(num_beams=2, num_return_sequences=2, stop=["a", "b", "c", ".", "!", "_"], tokenizer=reader)
    assert run(reader, 1, how, Tokens(0, None, 0)).tolist() == [[0, 1], [0, 2]]


def test_the_model_streams_and_stops():
    model, processor = Blip2ForConditionalGeneration.from_pretrained("demo"), Blip2Processor.from_pretrained("demo")
    inputs = processor(images=PICTURE, return_tensors="np")
    plain = processor.batch_decode(model.generate(**inputs), skip_special_tokens=True)[0]
    pieces = []
    model.generate(**inputs, streamer=TextStreamer(processor.tokenizer, pieces.append))
    assert "".join(pieces) == plain and len(pieces) > 3
    ids = model.generate(**inputs, stop="red", tokenizer=processor)
    assert processor.decode(ids[0], skip_special_tokens=True) == plain[: plain.index("red") + 3]


def test_rows_of_golden_pictures_stop_where_a_fake_tokenizer_says(rng):
    class Numbers:
        def decode(self, ids, skip_special_tokens=False):
            return " ".join(map(str, ids))

    model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / "base")
    inputs = golden_inputs(GOLDEN / "base")
    free = model.generate(**inputs)[0].tolist()
    wanted = f"{free[4]} {free[5]}"
    got = model.generate(**inputs, stop=wanted, tokenizer=Numbers())[0].tolist()
    cut = next(n for n in range(len(free)) if wanted in " ".join(map(str, free[1 : n + 1])))
    assert got[: cut + 1] == free[: cut + 1] and set(got[cut + 1 :]) <= {1}
