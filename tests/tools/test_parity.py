"""minivl diff: every planted fault is found where it is and called by its name, and what is the same is called so."""

import json
import os
import subprocess
import sys

import numpy as np
import plants
import pytest

import minivl
from minivl.cli import main
from minivl.errors import InputError, NumbersError
from minivl.ops import numpy as numpy_ops
from minivl.tools.parity import flow, inputs, ours, settings
from minivl.tools.parity.weights import how_it_differs, rounded

PLANTS = plants.all_plants()
FAMILIES = list(plants.CLASSES)


# ---- the proof ----------------------------------------------------------------------------------
def test_planted_faults_are_found_and_named(capsys):
    """Each of the usual suspects, one at a time; at least 95 of 100 at the right place with the right name first."""
    outcomes = [plants.examine(plant) for plant in PLANTS]
    with capsys.disabled():
        if os.environ.get("SHOW_PLANTS"):
            print("\n" + plants.table(outcomes))
    wrong = [one for one in outcomes if not (one.right_place and one.right_suspect)]
    assert len(outcomes) > 280
    assert len(wrong) <= 0.05 * len(outcomes), plants.table(wrong)
    lost = [one for one in outcomes if one.place == "(same)"]
    assert not lost, plants.table(lost)


def test_every_family_and_every_part_has_plants():
    parts = {(plant.family, plant.place.split(".")[0]) for plant in PLANTS}
    wanted = {("opt", "vision"), ("opt", "qformer"), ("opt", "projection"), ("opt", "language"), ("t5", "language")}
    wanted |= {("itm", part) for part in ("text", "vision", "text_layers", "image_layers", "image_links", "itm")}
    assert wanted | {("mlm", "mlm"), ("itc", "itc")} <= parts


def weird(family, op, number, change):
    return minivl.diff(plants.model_of(family), plants.with_op(family, op, number, change))


@pytest.mark.parametrize(
    "op, number, change",
    [
        ("attention", 1, lambda f, *a, **h: f(*a, **h) + np.sin(7 * f(*a, **h))),
        ("linear", 3, lambda f, x, w, b=None: f(np.sort(x, 1), w, b) + 0.1 * f(x, w, b) ** 2),
        ("layer_norm", 1, lambda f, x, *a, **h: np.sort(f(x, *a, **h), 1)),
        ("linear_act", 1, lambda f, *a, **h: np.sqrt(np.abs(f(*a, **h)))),
    ],
)
def test_a_change_that_no_suspect_is_gets_called_unknown(op, number, change):
    report = weird("opt", op, number, change)
    assert not report.same
    assert report.diagnosis.best is None and report.diagnosis.sentence.startswith("unknown")


def test_nan_is_a_difference():
    report = weird("opt", "linear", 3, lambda f, *a, **h: f(*a, **h) * np.float32(np.nan))
    assert not report.same and "NaN" in report.diagnosis.sentence
    json.loads(json.dumps(report.to_dict(), allow_nan=False))


# ---- what is the same ---------------------------------------------------------------------------
@pytest.mark.parametrize("family", FAMILIES)
def test_torch_and_transformers_are_the_same_as_ours(family):
    """Every activation of every family, also the other way round: then the judge has transformers' weights."""
    ours, theirs = plants.model_of(family), plants.theirs_of(family)
    report = minivl.diff(ours, theirs)
    assert report.same, str(report)
    names = [row.name for row in report.runs[0].rows]
    assert len(names) > 60 and len(set(names)) == len(names) and names[-2:] == ["logits", "loss"]
    back = minivl.diff(theirs, ours)
    assert back.same, str(back)
    assert len(back.runs[0].rows) == len(names)


def test_sides_by_name(tmp_path):
    plants.model_of("opt").save_pretrained(tmp_path)
    for a, b in (("numpy", "torch"), ("float64", "numpy"), ("numpy", "float64")):
        report = minivl.diff(a, b, model=tmp_path, to_the_end=True)
        assert report.same, str(report)
        assert len(report.runs[0].rows) > 75
    assert minivl.diff("bfloat16", "numpy", model=tmp_path).diagnosis.best.endswith("not rounded to bfloat16")
    for narrow in ("bfloat16", "weight-only", "int8", "torch-bfloat16"):
        report = minivl.diff("numpy", narrow, model=tmp_path)
        assert report.diagnosis.best.startswith("dtype"), str(report)


def test_a_float16_side_is_held_to_the_error_of_another_one(tmp_path):
    plants.model_of("itm").save_pretrained(tmp_path)
    assert minivl.diff("torch-bfloat16", "transformers-bfloat16", model=tmp_path).same
    assert not minivl.diff("numpy", "transformers-bfloat16", model=tmp_path).same


@pytest.mark.parametrize(
    "family, wanted, changed",
    [
        ("opt", "weight and bias exchanged", ("vision__layers__1__mlp_ln__w", "vision__layers__1__mlp_ln__b")),
        ("opt", "weight scaled by 2 and bias missing", ("projection__w", "projection__b")),
        ("opt", "rows of the table of queries permuted", ("queries",)),
        ("itc", "logit scale 1 for ", ("itc__scale",)),
    ],
)
def test_tensors_that_differ_together_or_stand_alone_are_named(family, wanted, changed):
    params = plants.model_of(family).params
    if "exchanged" in wanted:
        w, b = (params["vision"]["layers"][1]["mlp_ln"][name] for name in "wb")
        change = [lambda _: b, lambda _: w]
    else:
        one = {"queries": lambda q: q[:, ::-1], "itc__scale": lambda s: np.float32(1)}
        change = [one.get(name, np.zeros_like if name.endswith("b") else lambda w: w * 2) for name in changed]
    given = dict(zip(changed, change, strict=True))
    assert minivl.diff(plants.model_of(family), plants.with_weights(family, **given)).diagnosis.best.startswith(wanted)


def test_what_transformers_refuses_is_said_in_one_line(tmp_path):
    found = plants.with_weights("opt", language__layers__1__mlp__down__b=np.zeros_like)
    found.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InputError, match=r"lacks 16 tensors that it wants, as language_model\.model\.decoder\.layers\.2"
    ):
        minivl.diff(found, "transformers", model=tmp_path)
    config["text_config"] |= {"num_hidden_layers": 2, "ffn_dim": 41}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="reading .* failed in transformers: RuntimeError"):
        minivl.diff(found, "transformers", model=tmp_path)


def test_another_folder_and_a_setting(tmp_path):
    plants.model_of("opt").save_pretrained(tmp_path / "a")
    plants.with_weights("opt", language__layers__1__mlp__down__b=np.zeros_like).save_pretrained(tmp_path / "b")
    report = minivl.diff(str(tmp_path / "a"), str(tmp_path / "b"))
    assert report.first.name == "language.layers.1.mlp" and report.diagnosis.best == "bias missing"
    assert report.first.hub == "language_model.model.decoder.layers.1.fc2"
    for b in ("numpy", "transformers"):
        setting = {"vision_config.layer_norm_eps": 1e-3}
        report = minivl.diff("numpy", b, model=tmp_path / "a", set_b=setting)
        assert report.first.name == "vision.layers.0.self_ln" and report.diagnosis.best == "eps 0.001 for 1e-06"


@pytest.mark.parametrize("side", ["numpy", "transformers"])
def test_what_follows_from_a_setting_follows_it(tmp_path, side):
    """A file names dense_act_fn beside the feed_forward_proj that it comes from, and in a model the former counts."""
    model = plants.model_of("t5")
    model.save_pretrained(tmp_path)
    setting = {"text_config.feed_forward_proj": "gated-relu"}
    report = minivl.diff("numpy", side, model=tmp_path, set_b=setting)
    assert report.first.name == "language.encoder.layers.0.mlp.act"
    assert report.diagnosis.best == "activation: relu for gelu (tanh)"
    follows = {"text_config.dense_act_fn": "relu"}
    assert settings.consequences(model.config, setting) == setting | follows
    exact = settings.changed(model.config, {"text_config.dense_act_fn": "gelu"})
    assert settings.changed(exact, setting).text_config.dense_act_fn == "gelu"
    both = {**setting, "text_config.dense_act_fn": "silu"}
    assert settings.changed(model.config, both).text_config.dense_act_fn == "silu"


# ---- the rule -----------------------------------------------------------------------------------
def test_the_rule_is_twice_the_error_and_a_floor():
    judge = plants_judge()
    item = flow.Item(("a", "out", 1), "a", None, None)
    wanted = np.ones(1000)
    for error, same in ((1.9e-4, True), (2.2e-4, False)):
        row = flow.measure(item, wanted, wanted + 1e-4, wanted - error, wanted, 1e-7, judge)
        assert row.same == same
    one = wanted.copy()
    one[7] += 1e-4  # a single number: lost in the norm, not among the largest errors
    assert not flow.measure(item, wanted, wanted, one, wanted, 1e-5, judge).same
    assert flow.measure(item, wanted, wanted, one, wanted, 3e-5, judge).same


def plants_judge():
    return ours.Ours(plants.model_of("opt"), "").judge()


def test_a_shape_is_a_difference():
    item = flow.Item(("a", "out", 1), "a", None, None)
    assert not flow.measure(item, np.ones(3), np.ones(3), np.ones(4), np.ones(3), 1.0, plants_judge()).same


# ---- the sides run in step ----------------------------------------------------------------------
def test_activations_are_let_go():
    """A side waits for its listener, so that no more than one activation of it is there at a time."""
    made = []

    class Side:
        def provides(self, key):
            return True

        def run(self, inputs, emit):
            for i in range(5):
                made.append(i)
                emit(flow.Item((f"{i}", "out", 1), f"{i}", None, None))

    running = flow.InStep(Side(), {})
    assert running.get(("1", "out", 1)).name == "1" and made == [0, 1]
    assert running.get(("0", "out", 1)).name == "0" and made == [0, 1]
    running.close()
    assert made == [0, 1] and not running.thread.is_alive() or running.thread.join(2) is None


def test_an_error_of_a_side_reaches_the_caller():
    model = plants.model_of("opt")
    with pytest.raises(InputError, match="pixel_values"):
        minivl.diff(model, model, {"pixel_values": np.zeros((1, 3, 5, 5)), "input_ids": [[1]], "attention_mask": [[1]]})


# ---- the weights --------------------------------------------------------------------------------
def test_how_a_tensor_differs():
    w = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)

    def said(theirs, name="w", path="x.layers.0.self.out", heads=2, known={}):  # noqa: B006
        return how_it_differs(w if name == "w" else w[0], theirs, name, path, heads, known)

    assert said(w.T) == "weight transposed"
    assert said(w * 0) == "weight is all zero"
    assert said(w * 2) == "weight scaled by 2"
    assert said(rounded(w, "float16")) == "dtype: weight rounded to float16"
    assert said(w[[1, 0, 2, 3, 4, 5]]) == "rows 0, 1 of the weight permuted"
    assert said(w[::-1]) == "rows of the weight permuted"
    assert said(np.roll(w, 1, 0)) == "rows of the weight permuted: shifted by +1"
    rows = np.arange(6)[:, None]
    assert said(np.where(rows == 2, 0, w)) == "row 2 of the weight zero"
    assert said(np.where(rows < 3, w * 3, w)) == "rows 0 to 2 of the weight scaled by 3"
    assert said((w * 1.5).astype(np.float16).astype(np.float32)) == "weight scaled by 1.5"
    assert said(w + 0.5).startswith("0.5 added")
    assert said(np.random.default_rng(1).normal(size=(6, 6))).startswith("weight differs (by 1")
    assert said(w[::-1], known={"x.layers.1.self.out": w[::-1]}) == "weights of x.layers.1.self.out in its place"
    assert said(w[0] * 0, "b") == "bias missing"


# ---- the report ---------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def parted():
    return minivl.diff(plants.model_of("opt"), plants.with_setting("opt", "text_config.activation_function", "gelu"))


def test_the_report_in_all_its_forms(parted):
    assert not parted and parted.first.name == "language.layers.0.mlp.act"
    text = str(parted)
    assert "activation: gelu (exact) for relu" in text and "language_model.model.decoder.layers.0.fc2 input" in text
    index, a, b = parted.worst
    assert f"worst at {list(index)}" in text and a != b
    found = json.loads(parted.json())
    assert found["same"] is False and found["runs"][0]["first"] == "language.layers.0.mlp.act"
    assert found["runs"][0]["diagnosis"]["suspects"][0]["enough"] is True
    page = parted.html()
    assert page.startswith("<!doctype html>") and parted._repr_html_() in page and "class=different" in page
    assert "DIFFERENT at language.layers.0.mlp.act" in parted.line() and "\n" not in parted.line()


# ---- the command --------------------------------------------------------------------------------
def test_the_command_says_same_and_different(capsys, tmp_path):
    assert main(["diff", "numpy", "torch", "--model", "demo"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("demo (Blip2ForConditionalGeneration): numpy against torch") and last.endswith("same")
    page = tmp_path / "page.html"
    changed = ["--set-b", "qformer_config.layer_norm_eps=1e-5", "--json", "--html", str(page)]
    assert main(["diff", "numpy", "numpy", *changed]) == 1
    assert json.loads(capsys.readouterr().out)["runs"][0]["first"] == "qformer.ln"
    assert "eps 1e-05 for 1e-12" in page.read_text()


@pytest.mark.parametrize(
    "words, wanted",
    [
        (["numpy"], "give B, or a checkpoint alone"),
        (["numpy", "nowhere/at-all-" * 9], "checkpoint"),
        (["demo", "demo-bridgetower"], "of one family"),
        (["numpy", "numpy", "--set-b", "no.such=1"], "setting 'no.such' does not exist"),
        (["numpy", "numpy", "--set-b", "nothing"], "wanted PATH=VALUE"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(words, wanted, capsys):
    assert main(["diff", *words]) == 2
    complaint = capsys.readouterr().err
    assert wanted in complaint and complaint.count("\n") == 1


def test_a_checkpoint_alone_is_held_against_transformers(capsys):
    assert main(["diff", "demo-bridgetower"]) == 0
    out = capsys.readouterr().out
    assert "BridgeTowerForMaskedLM" in out and "BridgeTowerForContrastiveLearning" in out
    assert "numpy against transformers" in out.splitlines()[-1]


def test_without_transformers_a_checkpoint_is_held_against_float64():
    code = (
        "import sys; sys.modules['transformers'] = None\n"
        "from minivl.cli import main\n"
        "sys.exit(main(['diff', 'demo', '--picture', 'tutorials/pictures/red_circle.png']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "float64 against numpy" in result.stdout.splitlines()[-1]


# ---- minivl.trace -------------------------------------------------------------------------------
def test_trace_keeps_what_flows_by_name():
    model = plants.model_of("opt")
    given = inputs.seeded(type(model), model.config)
    record = model.ops
    with minivl.trace(model, attentions=True) as flowing:
        output = model(**given, output_hidden_states=True, output_attentions=True)
    assert model.ops is record
    states = output.vision_outputs.hidden_states
    for i in range(2):
        assert flowing[f"vision.layers.{i}"] is states[i + 1]
        assert flowing.hub(f"vision.layers.{i}") == f"vision_model.encoder.layers.{i}"
        maps = output.vision_outputs.attentions[i]
        np.testing.assert_array_equal(flowing[f"vision.layers.{i}.self.weights"], maps)
    assert flowing["vision.embeddings"] is states[0]
    assert flowing.hub("language.layers.1.mlp") == "language_model.model.decoder.layers.1.fc2"
    assert flowing["language.head"].shape[:2] == (2, 12) and "no such" not in flowing


def test_trace_names_the_first_op_that_is_not_finite():
    model = plants.with_weights("opt", language__layers__1__mlp__down__w=lambda w: w * np.float32(np.inf))
    given = inputs.seeded(type(model), model.config)
    wanted = r"op linear of language\.layers\.1\.mlp\.down: wanted finite .* already in its argument w"
    with pytest.raises(NumbersError, match=wanted), np.errstate(all="ignore"), minivl.trace(model, check_finite=True):
        model(**given)
    with minivl.trace(check_finite=True) as flowing, pytest.raises(NumbersError, match="op gelu.* already in its arg"):
        flowing.ops.gelu(np.array([1.0, np.nan]))
    with minivl.trace(numpy_ops.OPS, check_finite=True) as flowing, np.errstate(all="ignore"):
        with pytest.raises(NumbersError, match=r"op linear: .* its arguments are finite"):
            flowing.ops.linear(np.full((1, 2), 3e38, "f4"), np.full((1, 2), 3e38, "f4"))
