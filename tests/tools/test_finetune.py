"""Fine-tuning the Q-Former: what is read, what learns, what is written, and that a broken training goes on unharmed."""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import minivl.ops
from minivl import Blip2ForConditionalGeneration, Blip2Processor
from minivl.cli import main
from minivl.config.blip2 import Blip2Config, T5Config
from minivl.demo import world
from minivl.errors import ImageError, InputError, WeightsError
from minivl.tools.finetune import examples, training
from minivl.weights import files, places, tree

ROOT = Path(__file__).parents[2]
DEMO = places.find("demo")
FEW = ("--epochs", "2", "--batch", "4", "--rate", "2e-3", "--device", "cpu", "--checkpoint", "0")  # 8 texts: 4 steps


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Six pictures of the toy world, under texts that the demo does not say; two of them with questions."""
    folder = tmp_path_factory.mktemp("pictures")
    lines = []
    for i in range(6):
        scene = world.scene("train", 9, i)
        world.draw(scene).save(folder / f"{i}.png")
        lines.append({"file_name": f"{i}.png", "text": f"two stars above {scene.things[0].colour}"})
        if i < 2:
            lines.append({"file_name": f"{i}.png", "prompt": "Question: what is it? Answer:", "text": "ring"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The same bytes come out of the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """What the command leaves when nothing interrupts it, and the lines on the way."""
    out = tmp_path_factory.mktemp("trained") / "out"
    status, told, lines = command(pictures, out)
    assert status == 0 and told == f"{out}\n"
    return out, lines


def command(pictures, out, *more):
    """Exit status, standard output, standard error."""
    told, lines = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(lines):
        status = main(["finetune", str(pictures), "--out", str(out), *FEW, *more])
    return status, told.getvalue(), lines.getvalue()


def loaded(folder):
    return {name: stored.float32() for name, stored in files.read(folder).items()}


def same_folder(one, other):
    assert sorted(p.name for p in one.iterdir()) == sorted(p.name for p in other.iterdir())
    for path in one.iterdir():
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name


# ---- what it leaves --------------------------------------------------------------------------------------------------
def test_only_the_bridge_learns(trained):
    before, after = loaded(DEMO), loaded(trained[0])
    assert before.keys() == after.keys()
    for name, weight in before.items():
        taught = name.startswith(("qformer.", "language_projection.", "query_tokens"))
        assert taught != np.array_equal(weight, after[name]), name


def test_the_loss_falls_and_a_line_says_so(trained):
    lines = trained[1].splitlines()
    found = [re.fullmatch(r"step (\d)/4  epoch (\d)/2  loss (\S+)  \S+ pictures/s  \d+ s left", line) for line in lines]
    assert all(found) and [(each[1], each[2]) for each in found] == [("1", "1"), ("4", "2")]
    assert float(found[1][3]) < float(found[0][3])


def test_more_steps_teach_it_by_heart(pictures):
    """In the same process, on one batch: the captions come out as they were put in."""
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch")
    processor = Blip2Processor.from_pretrained("demo")
    told = examples.read(pictures / "metadata.jsonl", pictures, processor, model.config)[:4]
    learner = training.Learner(model, plan(epochs=18, texts=4, batch=4, rate=3e-3))
    inputs = examples.batch(told, processor, model.config)
    losses = [learner.learn(inputs) for _ in range(18)]
    assert losses[-1] < 0.1 * losses[0], losses
    pixels = inputs["pixel_values"][:1]
    said = processor.batch_decode(learner.finish().generate(pixels), skip_special_tokens=True)[0].strip()
    assert said == f"two stars above {world.scene('train', 9, 0).things[0].colour}"


def test_transformers_reads_it(trained, pictures):
    theirs = transformers.Blip2ForConditionalGeneration.from_pretrained(trained[0]).eval()
    mine, processor = (
        Blip2ForConditionalGeneration.from_pretrained(trained[0]),
        Blip2Processor.from_pretrained(trained[0]),
    )
    pixels = processor(str(pictures / "0.png"), return_tensors="np").pixel_values
    ours = mine.generate(pixels, max_new_tokens=8)
    ids = torch.tensor([[mine.config.text_config.bos_token_id]])
    soft = torch.full((1, mine.config.num_query_tokens), mine.config.image_token_index)
    with torch.no_grad():
        given = dict(pixel_values=torch.tensor(pixels), input_ids=torch.cat([soft, ids], 1))
        logits = theirs(**given).logits[0, -1]
    own = mine(pixels, ids.numpy()).logits[0, -1]
    np.testing.assert_allclose(own, logits.numpy(), atol=2e-4)
    assert ours[0, 1] == logits.argmax()


# ---- stopped and resumed ---------------------------------------------------------------------------------------------
def test_after_a_signal_the_step_is_finished(trained, pictures, tmp_path, monkeypatch):
    out, learn, usual = tmp_path / "out", training.Learner.learn, signal.getsignal(signal.SIGTERM)

    def stricken(self, inputs):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(training.Learner, "learn", stricken)
        status, told, lines = command(pictures, out, "--checkpoint", "999")
    assert status == 128 + signal.SIGTERM and not told
    assert lines.endswith("stopped after step 3; go on with --resume\n")
    assert signal.getsignal(signal.SIGTERM) is usual
    resumes(out, 3, pictures, trained)


def resumes(out, left, pictures, trained):
    """A checkpoint after so many steps is all there is, and what comes of it is what came without a break."""
    assert [path.name for path in out.iterdir()] == [training.CHECKPOINT]
    assert torch.load(out / training.CHECKPOINT, weights_only=True)["step"] == left
    status, _, lines = command(pictures, out, "--resume")
    assert status == 0 and lines.startswith(f"step {left + 1}/4")
    same_folder(out, trained[0])


KILL = """
import os, signal, sys, torch
from minivl.cli import main
from minivl.tools.finetune import training
torch.set_num_threads(1)
learn = training.Learner.learn
def stricken(self, inputs):
    if self.step == 2: os.kill(os.getpid(), signal.SIGKILL)
    return learn(self, inputs)
training.Learner.learn = stricken
main(sys.argv[1:])
"""


def test_a_killed_training_goes_on(trained, pictures, tmp_path):
    out = tmp_path / "out"
    arguments = ["finetune", str(pictures), "--out", str(out), *FEW]
    struck = subprocess.run([sys.executable, "-c", KILL, *arguments], cwd=ROOT, capture_output=True, timeout=300)
    assert struck.returncode == -signal.SIGKILL, struck.stderr
    resumes(out, 2, pictures, trained)


def test_what_is_there_is_not_overwritten(trained, pictures, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in trained[0].iterdir()}
    for more in ([], ["--resume"]):
        assert main(["finetune", str(pictures), "--out", str(trained[0]), *FEW, *more]) == 1
        assert capsys.readouterr().err.strip().endswith("holds a model already: give another --out")
    assert before == {path.name: path.read_bytes() for path in trained[0].iterdir()}
    out = tmp_path / "out"
    out.mkdir()
    (out / training.CHECKPOINT).write_bytes(b"")
    assert main(["finetune", str(pictures), "--out", str(out), *FEW]) == 1
    assert "holds an unfinished training: go on with --resume" in capsys.readouterr().err
    assert main(["finetune", str(pictures), "--out", str(out), *FEW, "--resume"]) == 1
    assert f"{training.CHECKPOINT}: wanted a checkpoint of this command, found" in capsys.readouterr().err


def test_a_checkpoint_of_another_training_is_refused(tmp_path):
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch")
    path = tmp_path / training.CHECKPOINT
    training.Learner(model, plan()).save(path)
    for name, value in (("rate", 0.5), ("examples", "others"), ("model", "another")):
        with pytest.raises(InputError, match=f"was begun with {name} .*, and now {name} is .*{value}"):
            training.Learner(model, plan(**{name: value})).resume(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="wanted a checkpoint of this command"):
        training.Learner(model, plan()).resume(path)


# ---- what it reads ---------------------------------------------------------------------------------------------------
def plan(**changes):
    usual = training.Plan("demo", "abc", 8, 2, 4, 1e-3, 0.05, 0, "torch", "float32")
    return usual._replace(**changes)


@pytest.fixture(scope="module")
def processor():
    return Blip2Processor.from_pretrained("demo")


CONFIG = Blip2Config.from_pretrained("demo")


def test_prompts_are_read_and_not_learned(pictures, processor):
    told = examples.read(pictures / "metadata.jsonl", pictures, processor, CONFIG)
    assert len(told) == 8 and told[0].picture == pictures / "0.png"
    inputs = examples.batch(told[:2], processor, CONFIG)
    assert inputs["pixel_values"].shape == (2, 3, 64, 64)
    end, (caption, answer) = CONFIG.text_config.eos_token_id, inputs["labels"]
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    begin = processor.tokenizer("")["input_ids"]
    assert ids[0, : len(begin)].tolist() == begin and (caption[: len(begin)] == -100).all()
    colour = world.scene("train", 9, 0).things[0].colour
    assert processor.tokenizer.decode(caption[caption != -100]).strip() == f"two stars above {colour}"
    assert answer[answer != -100].tolist() == [
        *processor.tokenizer(" ring", add_special_tokens=False)["input_ids"],
        end,
    ]
    assert processor.tokenizer.decode(ids[1][mask[1] == 1], skip_special_tokens=True).strip() == (
        "Question: what is it? Answer: ring"
    )
    for row in range(2):
        kept = inputs["labels"][row] != -100
        assert (ids[row][kept] == inputs["labels"][row][kept]).all() and mask[row][kept].all()
        assert ids[row][kept][-1] == end


def test_t5_hears_the_prompt_and_learns_the_text(pictures, processor):
    text = T5Config(
        d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=CONFIG.text_config.vocab_size,
        decoder_start_token_id=0, bos_token_id=0,
    )  # fmt: skip
    config = Blip2Config(CONFIG.vision_config, CONFIG.qformer_config, text, num_query_tokens=4)
    told = examples.read(pictures / "metadata.jsonl", pictures, processor, config)[:2]
    inputs = examples.batch(told, processor, config)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape != inputs["labels"].shape
    assert inputs["labels"][1][inputs["labels"][1] != -100].tolist() == processor.tokenizer("ring")["input_ids"]
    ops = minivl.ops.get("torch")
    fresh = tree.random(Blip2ForConditionalGeneration.table(config), np.random.default_rng(0), std=0.3)
    model = Blip2ForConditionalGeneration(config, ops=ops, params=tree.map_leaves(ops.from_numpy, fresh))
    learner = training.Learner(model, plan(epochs=30, texts=2, batch=2, rate=1e-2))
    losses = [learner.learn(inputs) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.2, losses


BROKEN = {
    "{": "wanted JSON in UTF-8",
    "[1]": "wanted a JSON object",
    '{"file_name": "0.png"}': 'wanted "text" with some text, found None',
    '{"file_name": "0.png", "text": " "}': 'wanted "text" with some text',
    '{"file_name": 3, "text": "a"}': 'wanted "file_name" with some text, found 3',
    '{"file_name": "0.png", "text": "a", "prompt": 1}': 'wanted "prompt" with a text, found 1',
    '{"file_name": "../0.png", "text": "a"}': "wanted a picture inside",
    '{"file_name": "/etc/hosts", "text": "a"}': "wanted a picture inside",
    json.dumps({"file_name": "0.png", "text": "ring " * 100}): "the language model has room for 96",
    json.dumps({"file_name": "0.png", "text": "a" * 70_000}): "wanted at most 65536 bytes",
}


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:40])
def test_a_broken_line_is_named(line, pictures, processor, tmp_path):
    lines = tmp_path / "texts.jsonl"
    lines.write_text(f'{{"file_name": "0.png", "text": "a ring"}}\n{line}\n')
    with pytest.raises(InputError, match=re.escape(BROKEN[line])) as caught:
        examples.read(lines, pictures, processor, CONFIG)
    assert str(caught.value).startswith(f"{lines}, line 2: ") and "\n" not in str(caught.value)


def test_broken_files_are_named(pictures, processor, tmp_path):
    lines = tmp_path / "texts.jsonl"
    with pytest.raises(InputError, match="texts.jsonl: wanted a file with one JSON object a line, found No such file"):
        examples.read(lines, pictures, processor, CONFIG)
    lines.write_text("\n\n")
    with pytest.raises(InputError, match="found an empty file"):
        examples.read(lines, pictures, processor, CONFIG)
    lines.write_text('{"file_name": "0.png", "text": "a"}\n{"file_name": "7.png", "text": "a"}\n')
    with pytest.raises(ImageError, match="7.png: wanted a picture file, found no such file"):
        examples.read(lines, pictures, processor, CONFIG)
    shutil.copy(pictures / "0.png", tmp_path)
    shutil.copy(lines, tmp_path / "7.png")
    with pytest.raises(ImageError, match="7.png: wanted a picture"):
        examples.read(lines, tmp_path, processor, CONFIG)


# ---- steps -----------------------------------------------------------------------------------------------------------
def test_every_epoch_takes_every_text_once():
    steps = [part.tolist() for part in examples.order(7, 3, 2, seed=5)]
    assert [len(part) for part in steps] == [3, 3, 1] * 2
    first, second = (sum(steps[i : i + 3], []) for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    assert steps == [part.tolist() for part in examples.order(7, 3, 2, seed=5)]
    assert steps != [part.tolist() for part in examples.order(7, 3, 2, seed=6)]


def test_rates_rise_then_fall():
    rates = [plan(texts=100, batch=10, epochs=10).rate_of(step) for step in range(100)]
    assert rates[:10] == pytest.approx([1e-4 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == rates[10] == 1e-3
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False)) and 0 < rates[-1] < 1e-6
    assert plan(texts=1, epochs=1).rate_of(0) == 1e-3  # a single step, too


def test_bfloat16_computes_in_it_and_learns_in_float32(pictures, processor):
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch", dtype="bfloat16")
    learner = training.Learner(model, plan(dtype="bfloat16", epochs=2))
    told = examples.read(pictures / "metadata.jsonl", pictures, processor, model.config)[:4]
    losses = [learner.learn(examples.batch(told, processor, model.config)) for _ in range(3)]
    assert losses[-1] < losses[0]
    assert {w.dtype for w in learner.weights.values()} == {torch.float32}
    assert model.params["qformer"]["layers"][0]["self"]["q"]["w"].dtype == torch.bfloat16
    assert not any(w.requires_grad for w in tree.flatten(model.table(model.config), model.params).values() if w.is_leaf)


def test_a_loss_that_is_no_number_ends_it(pictures, processor):
    model = Blip2ForConditionalGeneration.from_pretrained("demo", backend="torch")
    model.params["language"]["tokens"][5] = float("nan")
    learner = training.Learner(model, plan())
    told = examples.read(pictures / "metadata.jsonl", pictures, processor, model.config)[:2]
    before = {name: w.clone() for name, w in learner.weights.items()}
    with pytest.raises(InputError, match="step 1: the loss is nan: try a lower --rate"):
        learner.learn(examples.batch(told, processor, model.config))
    assert all(torch.equal(w, before[name]) for name, w in learner.weights.items())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_line_is_overwritten_on_a_terminal_and_rare_elsewhere(monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(training.time, "monotonic", lambda: 10.0 * next(now))
    for out, wanted in ((Terminal(), 6), (io.StringIO(), 3)):
        progress = training.Progress(plan(texts=24), begun=6, out=out)
        for step in range(7, 13):
            progress.tell(step, 2.0 if step == 7 else 1.0)
        text = out.getvalue()
        assert text.count("step ") == wanted and text.endswith("\n")
        assert text.count("\n") == (1 if wanted == 6 else 3)
        assert "step 7/12  epoch 2/2  loss 2.0000  0.4 pictures/s  50 s left" in text
        assert "step 12/12  epoch 2/2  loss 1.7738  0.4 pictures/s  0 s left" in text


@pytest.mark.parametrize("seconds, said", [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (3570, "1 h 0 min"),
                                           (3000, "50 min"), (12000, "3 h 20 min")])  # fmt: skip
def test_durations(seconds, said):
    assert training.duration(seconds) == said
