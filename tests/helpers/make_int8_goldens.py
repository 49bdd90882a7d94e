"""Write tests/golden/int8.npz: what bitsandbytes answers on a CPU in LLM.int8(), for linear layers and whole models.

The environment is the one that make_goldens.py describes, and bitsandbytes:

    env437/bin/pip install bitsandbytes==0.50.2
    env437/bin/python tests/helpers/make_int8_goldens.py

For each case: x, w and b as they went in (float16 numbers); CB and SCB, the weight's whole numbers and scales; CA, SCA
and outliers, those of x, and its outlier columns; y, what the layer gives.

For each golden model: its states and its logits, with every linear layer but the head, and T5's wo, in bitsandbytes'
hands, and everything between them in float32.
"""

import bitsandbytes
import numpy as np
import torch
from make_goldens import GOLDEN
from transformers import Blip2ForConditionalGeneration

MODELS = {"base": {}, "t5_flan": {"decoder_input_ids": [[0, 5, 9, 7], [0, 3, 3, 8]]}}
# name: rows of x, C, F, columns with outliers, how many rows have them
CASES = {
    "plain": (5, 24, 12, [], 0),
    "outliers": (6, 32, 10, [0, 7, 31], 2),
    "one row": (1, 40, 9, [3, 39], 1),
    "threshold": (4, 16, 8, [2], 1),
    "wide": (2, 1100, 2, [], 0),  # more products in one sum than float32 holds exactly
}


def case(rng, name):
    rows, C, F, columns, rows_with = CASES[name]
    x, w, b = (rng.normal(0, s, shape) for s, shape in ((1, (rows, C)), (0.1, (F, C)), (0.5, (F,))))
    x = np.clip(x, -5, 5)
    for column in columns:
        x[rng.choice(rows, rows_with, replace=False), column] = rng.choice([-1, 1]) * rng.uniform(6.5, 60)
    if name == "threshold":
        x[0, 2], x[1, 5] = 6.0, 5.996  # 6 itself is an outlier, the number of float16 before it is none
        w[3] = 0  # a row with nothing in it
        x[2] = 0
    if name == "wide":
        x[0], w[0] = 5, 0.5  # sums as large as they can be, and odd
        x[0, 0] = -5
    return [torch.from_numpy(a).half() for a in (x, w, b)]


def linear(w, b):
    out, into = w.shape
    layer = bitsandbytes.nn.Linear8bitLt(into, out, b is not None, has_fp16_weights=False, threshold=6.0)
    layer.load_state_dict({"weight": w} if b is None else {"weight": w, "bias": b})
    return layer.to("cpu").eval()  # in training a CPU takes another path, with x as it is


def answers(x, w, b):
    layer = linear(w, b)
    with torch.no_grad():
        y = layer(x)
    CB, SCB, _ = bitsandbytes.functional.int8_vectorwise_quant(w.clone())
    CA, SCA, columns = bitsandbytes.functional.int8_vectorwise_quant(x.clone(), threshold=6.0)
    if layer.state.CB is not None:
        assert torch.equal(layer.state.CB, CB) and torch.equal(layer.state.SCB, SCB)
    CB[SCB == 0], CA[SCA == 0] = 0, 0  # 0 · 127 / 0 has no whole number, and its product with a scale of 0 is 0
    found = [] if columns is None else columns.tolist()
    return dict(x=x, w=w, b=b, CB=CB, SCB=SCB, CA=CA, SCA=SCA, y=y, outliers=torch.tensor(found, dtype=torch.int64))


def states(name, given):
    """The states of a golden model, in the order of flow, and its logits."""
    model = Blip2ForConditionalGeneration.from_pretrained(GOLDEN / name, torch_dtype=torch.float32).eval()
    for place, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and not place.endswith(("lm_head", ".wo")):
            bias = None if layer.bias is None else layer.bias.data
            model.set_submodule(place, linear(layer.weight.data, bias))
    with np.load(GOLDEN / name / "forward.npz") as arrays:
        given = given | {key: arrays[key][:2] for key in ("pixel_values", "input_ids", "attention_mask")}
    inputs = {key: torch.as_tensor(value) for key, value in given.items()}
    with torch.no_grad():
        out = model(**inputs, output_hidden_states=True)
    said = out.language_model_outputs
    words = said.hidden_states if "t5" not in name else said.encoder_hidden_states + said.decoder_hidden_states
    every = (*out.vision_outputs.hidden_states, out.qformer_outputs.last_hidden_state, *words, out.logits)
    return {f"{name}/{i:02}": state for i, state in enumerate(every)}


def main():
    rng = np.random.default_rng(0)
    arrays = {f"{name}/{key}": a.numpy() for name in CASES for key, a in answers(*case(rng, name)).items()}
    for name, given in MODELS.items():
        arrays |= {key: a.numpy() for key, a in states(name, given).items()}
    path = GOLDEN / "int8.npz"
    np.savez_compressed(path, **arrays)
    print(f"{path.name}: {path.stat().st_size} bytes, bitsandbytes {bitsandbytes.__version__}")


if __name__ == "__main__":
    main()
