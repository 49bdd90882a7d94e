r"""Words become vectors: rows of a table, and the whole front of a RoBERTa in one kernel.

    embed         y[t] = table[ids[t]]
    embed_text    y[t] = layer_norm(words[ids[t]] + positions[place[t]] + types[0])
                  place[t] = pad + (ids[t] != pad) · number of words among ids[0 ... t]

The trick of `embed_text`: three tables are read where they lie, added in float32 registers and normalised there.
Places are counted by each program for itself: it reads the ids of its text (a few hundred integers, from the cache) and
counts the words up to each of its tokens, so no program waits for another, as it would for a sum running over the text.

An id outside its table must be refused, as NumPy would count a negative one from the end and a GPU would read whatever
lies there. `survey_kernel` finds the lowest and the highest id of each text and counts its words; the computer waits
for those few numbers. The gathering kernels leave ids outside the table unread in any case.

    memory      embed: the rows once, the result once. embed_text: two rows for each token, one result, the rest from
                the cache; as single steps (two look-ups, two sums, a norm) it is six reads and five writes.
    schedule    one program takes ROWS tokens whole; embed cuts rows wider than a block into several programs

The plain versions are `embed` in minivl/ops/numpy.py and `embed` in minivl/models/roberta.py.
"""

from minivl.errors import InputError, OpsError
from minivl.kernels.activations import check_floats
from minivl.kernels.launch import arrays, empty, tl, triton
from minivl.kernels.layer_norm import WIDEST, normalise
from minivl.kernels.rows import as_rows, check_width, rows_per_program, unit_of


def config(C, rows=1 << 20):
    """The tile that ships for `rows` tokens of width C, for both kernels."""
    block = min(triton.next_power_of_2(C), WIDEST)
    return dict(BLOCK=block, ROWS=rows_per_program(block, rows, 1024), num_warps=min(max(block, 1024) // 256, 8))


@triton.jit
def embed_kernel(
    IDS, TABLE, OUT,  # (count,), (V, C) with rows stride · UNIT apart, (count, C)
    count, V, stride,
    C: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    t = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    id = tl.load(IDS + t, t < count, -1).to(tl.int64)  # [ROWS]
    here = (id >= 0)[:, None] & (id < V)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
    row = tl.load(TABLE + id[:, None] * (stride * UNIT) + c[None, :], here)  # [ROWS, BLOCK]
    tl.store(OUT + t[:, None] * C + c[None, :], row, here)


@triton.jit
def survey_kernel(
    IDS, SEEN,  # (texts, T), (texts, 3): lowest id, highest id, number of ids that are not padding
    T, pad,
    BLOCK: tl.constexpr,
):  # fmt: skip
    text = tl.program_id(0).to(tl.int64)
    lowest = tl.zeros([BLOCK], tl.int64)  # [BLOCK]
    highest = tl.zeros([BLOCK], tl.int64)  # [BLOCK]
    words = tl.zeros([BLOCK], tl.int64)  # [BLOCK]
    for start in range(0, T, BLOCK):
        t = start + tl.arange(0, BLOCK)  # [BLOCK]
        id = tl.load(IDS + text * T + t, t < T, 0).to(tl.int64)  # [BLOCK]
        lowest = tl.minimum(lowest, id)
        highest = tl.maximum(highest, id)
        words += ((id != pad) & (t < T)).to(tl.int64)
    tl.store(SEEN + text * 3, tl.min(lowest, 0))
    tl.store(SEEN + text * 3 + 1, tl.max(highest, 0))
    tl.store(SEEN + text * 3 + 2, tl.sum(words, 0))


@triton.jit
def embed_text_kernel(
    IDS, WORDS, POSITIONS, TYPE, W, B, OUT,  # (B, T), (V, C), (P, C), (C,), (C,), (C,), (B, T, C)
    T, V, P, pad, words_stride, positions_stride, eps,  # row strides in units of UNIT
    C: tl.constexpr, UNIT: tl.constexpr, BLOCK_T: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    text = tl.program_id(1).to(tl.int64)
    t = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # [ROWS]
    c = tl.arange(0, BLOCK)  # [BLOCK]

    s = tl.arange(0, BLOCK_T)  # [BLOCK_T]  the whole text
    word = (tl.load(IDS + text * T + s, s < T, pad) != pad) & (s < T)  # [BLOCK_T]
    before = tl.sum(((s[None, :] <= t[:, None]) & word[None, :]).to(tl.int32), 1)  # [ROWS]  counts the token itself
    id = tl.load(IDS + text * T + t, t < T, -1).to(tl.int64)  # [ROWS]
    place = (tl.where(id != pad, before, 0) + pad).to(tl.int64)  # [ROWS]

    here = (id >= 0)[:, None] & (id < V)[:, None] & (place < P)[:, None] & (c < C)[None, :]  # [ROWS, BLOCK]
    x = tl.load(WORDS + id[:, None] * (words_stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)  # [ROWS, BLOCK]
    x += tl.load(POSITIONS + place[:, None] * (positions_stride * UNIT) + c[None, :], here, 0.0).to(tl.float32)
    x += tl.load(TYPE + c, c < C, 0.0).to(tl.float32)[None, :]

    y, _, _ = normalise(x, c, eps, C)  # [ROWS, BLOCK]
    y = y * tl.load(W + c, c < C, 0.0).to(tl.float32)[None, :] + tl.load(B + c, c < C, 0.0).to(tl.float32)[None, :]
    tl.store(OUT + (text * T + t)[:, None] * C + c[None, :], y.to(OUT.dtype.element_ty), here)


@arrays
def embed(ids, table, tile=None):
    """Row ids[...] of the table, one for each token.

    ids (...) integer   table (V, C)   ->   (..., C)
    InputError for an id outside the table: a negative one would count from its end.
    """
    out = empty((*ids.shape, table.shape[1]), table)
    if not ids.numel():
        return out
    texts = ids.reshape(-1, ids.shape[-1] if len(ids.shape) else 1).contiguous()
    most_words(texts, table, -1)
    flat, table, count, (V, C) = texts.reshape(-1), as_rows(table), ids.numel(), table.shape
    tile, unit = tile or config(C, count), unit_of(table.stride(0))
    grid = triton.cdiv(count, tile["ROWS"]), triton.cdiv(C, tile["BLOCK"])
    embed_kernel[grid](flat, table, out, count, V, table.stride(0) // unit, C=C, UNIT=unit, **tile)
    return out


@arrays
def embed_text(ids, words, positions, types, w, b, eps, pad, tile=None):
    """The front of RoBERTa: the embeddings of words, places and the first token type, added and normalised.

    ids (B, T) integer   words (V, C)   positions (P, C)   types (K, C), of which row 0   w, b (C,)   ->   (B, T, C)
    InputError for an id outside `words`, and for a text with more words than there are positions after row pad.
    """
    check_floats("embed_text", words=words, positions=positions, types=types, w=w, b=b)
    (texts, T), (V, C), P = ids.shape, words.shape, positions.shape[0]
    if C > WIDEST:
        raise OpsError(f"embed_text: the kernel takes up to {WIDEST} numbers a word, these have {C}")
    check_width("embed_text", C, w=w, b=b)
    out, ids = empty((texts, T, C), words), ids.contiguous()
    if not ids.numel():
        return out
    if most_words(ids, words, pad) > P - pad - 1:
        raise InputError(
            f"a text is longer than the {P - pad - 1} tokens that the text tower has positions for: shorten it"
        )
    words, positions, types = as_rows(words), as_rows(positions), as_rows(types)
    tile, unit = tile or config(C, T), unit_of(words.stride(0), positions.stride(0))
    embed_text_kernel[(triton.cdiv(T, tile["ROWS"]), texts)](
        ids, words, positions, types, w.contiguous(), b.contiguous(), out,
        T, V, P, pad, words.stride(0) // unit, positions.stride(0) // unit, eps,
        C=C, UNIT=unit, BLOCK_T=triton.next_power_of_2(T), **tile,
    )  # fmt: skip
    return out


def most_words(texts, table, pad):
    """Refuse ids outside the table; otherwise the number of words in the longest text.   texts (B, T), contiguous"""
    B, T = texts.shape
    seen, V = empty((B, 3), texts, "int64"), table.shape[0]
    survey_kernel[(B,)](texts, seen, T, pad, BLOCK=min(triton.next_power_of_2(T), 4096), num_warps=4)
    lowest, highest, words = zip(*seen.tolist(), strict=True)
    if min(lowest) < 0 or max(highest) >= V:
        wrong = min(lowest) if min(lowest) < 0 else max(highest)
        raise InputError(f"token id {wrong} has no embedding: the table has {V} rows, ids run from 0 to {V - 1}")
    return max(words)
