"""Write tests/golden/*/ways.json: what generate() of transformers 4.37.2 answers to a few hundred ways of asking it.

The folders are those that make_goldens.py wrote, or any other with a checkpoint of BLIP-2 and a forward.npz that holds
pixel_values, input_ids and attention_mask of three rows. The environment is the one described there:

    env437/bin/python tests/helpers/make_generate_goldens.py [FOLDER ...]

The arguments are drawn, with the folder's name as the seed: beams, length penalties, three ways of stopping early, end
tokens that are likely to be met, least lengths, penalties and n-grams. Where beams are drawn by chance, chance is made
repeatable: torch.multinomial takes the best of log-probability + noise, which is a draw without putting back too, and
the noise of each row and step is known to both sides.

A way whose answer changes when the scores are shaken a little (two continuations were worth nearly the same) is drawn
again, so that rounding cannot change an id.
"""

import json
import random
import sys
from itertools import count
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import Blip2ForConditionalGeneration

GOLDEN = Path(__file__).parents[1] / "golden"
WAYS = 60  # for each folder
SHAKE = 2e-4  # how far a score may move without changing an answer


class Shaken:
    """A logits processor: adds a little noise, always the same for one seed."""

    def __init__(self, seed):
        self.noise = torch.Generator().manual_seed(seed)

    def __call__(self, ids, scores):
        return scores + SHAKE * (2 * torch.rand(scores.shape, generator=self.noise) - 1)


calls = count()


def drawn(probabilities, num_samples):
    """In place of torch.multinomial; the n-th call of a generate() has the noise of step n."""
    step = next(calls)
    noise = [
        np.random.RandomState([step, row]).gumbel(size=probabilities.shape[1]) for row in range(len(probabilities))
    ]
    return (probabilities.double().log() + torch.tensor(np.stack(noise))).topk(num_samples).indices


def draw(pick, likely):
    """Rows, whether they have a prompt, and the arguments of generate()."""
    beams = pick.choice([1, 2, 3, 4, 5])
    wanted = {"num_beams": beams, "eos_token_id": pick.sample(likely, pick.choice([1, 1, 1, 2, 3]))}
    if len(wanted["eos_token_id"]) == 1 and pick.random() < 0.5:
        wanted["eos_token_id"] = wanted["eos_token_id"][0]
    wanted |= pick.choice([{}, {"max_new_tokens": pick.randint(1, 24)}, {"max_length": pick.randint(2, 25)}])
    most = wanted.get("max_new_tokens", wanted.get("max_length", 20) - 1)
    if pick.random() < 0.3:
        wanted[pick.choice(["min_length", "min_new_tokens"])] = pick.randint(0, most)
    if beams > 1:
        wanted["length_penalty"] = pick.choice([0.0, -1.0, 0.6, 1.0, 2.0])
        wanted["early_stopping"] = pick.choice([True, False, "never"])
        wanted["num_return_sequences"] = pick.choice([1, 1, pick.randint(1, beams), beams])
        if pick.random() < 0.25:
            wanted |= {"do_sample": True, "temperature": pick.choice([0.5, 0.7, 1.5, 3.0])}
            wanted |= {"top_k": pick.choice([0, 12, 20]), "eos_token_id": pick.choice(likely)}
    if pick.random() < 0.4:
        wanted["repetition_penalty"] = pick.choice([0.8, 1.2, 2.0])
    if pick.random() < 0.4:
        wanted["no_repeat_ngram_size"] = pick.choice([1, 2, 2, 3])
    if pick.random() < 0.2:
        wanted["pad_token_id"] = pick.choice([0, 7])
    rows = pick.choice([(0, 1, 2), (2, 0), (1, 2), (0,), (1,), (2,)])
    return rows, pick.random() < 0.7, wanted


def answer(model, arrays, rows, prompt, wanted, shaken=None):
    names = ["pixel_values", "input_ids", "attention_mask"][: 3 if prompt else 1]
    inputs = {name: torch.tensor(arrays[name][list(rows)]) for name in names}
    global calls
    calls = count()
    with torch.no_grad():
        ids = model.generate(**inputs, **wanted, logits_processor=[] if shaken is None else [Shaken(shaken)])
    return ids.tolist()


def make(folder):
    pick = random.Random(folder.name)
    model = Blip2ForConditionalGeneration.from_pretrained(folder).eval()
    arrays = dict(np.load(folder / "forward.npz"))
    free = answer(model, arrays, (0, 1, 2), True, {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 3})
    free += answer(model, arrays, (0, 1, 2), False, {"max_new_tokens": 12})
    likely = sorted({token for row in free for token in row[3:]} - {model.config.text_config.pad_token_id, free[0][0]})
    cases, drawn = [], 0
    while len(cases) < WAYS:
        rows, prompt, wanted = draw(pick, likely)
        drawn += 1
        ids = answer(model, arrays, rows, prompt, wanted)
        if all(answer(model, arrays, rows, prompt, wanted, shaken) == ids for shaken in range(2)):
            cases.append({"rows": rows, "prompt": prompt, "arguments": wanted, "ids": ids})
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (folder / "ways.json").write_text(f"[\n{lines}\n]\n")
    print(f"{folder.name}: {len(cases)} of {drawn} drawn", flush=True)


def main():
    torch.multinomial = drawn
    assert transformers.__version__ == "4.37.2", f"these are the answers of 4.37.2, not of {transformers.__version__}"
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    folders = [Path(name) for name in sys.argv[1:]] or sorted(path.parent for path in GOLDEN.glob("*/generate.json"))
    for folder in folders:
        make(folder)


if __name__ == "__main__":
    main()
