"""`minivl bench`: sides that take turns and must agree, the arithmetic of its tables, its JSON, and what it refuses."""

import argparse
import contextlib
import io
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from minivl.cli import main
from minivl.errors import InputError, MinivlError
from minivl.tools.bench import (
    child,
    clock,
    command,
    demo,
    machine,
    others,
    ours,
    picture,
    processes,
    report,
    results,
    rows,
    sweep,
    theirs,
    towers,
    weights,
)
from minivl.tools.bench import sizes as real_sizes
from minivl.tools.bench.clock import Side
from minivl.tools.bench.rows import ROWS, Plan
from minivl.weights import names, tree

KEPT = Path("minivl/tools/bench/results.json")
HEADS = dict(hidden_size=32, num_attention_heads=4)


# ---- the clock -------------------------------------------------------------------------------------------------------
class Clock:
    """Time that passes only when somebody says so."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.log.append("pause")
        self.now += seconds

    def side(self, name, whose="minivl", seconds=(1.0,), output=1.0, **more):
        """A side that takes so many seconds, one time after the other, and has this output."""
        left = list(seconds)

        def run(*state):
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return np.array([output])

        return Side(name, whose, run, **more)


@pytest.fixture
def watch(monkeypatch):
    found = Clock()
    monkeypatch.setattr(clock, "time", found)
    return found


def test_sides_take_turns_with_a_pause_before_each(watch):
    sides = [watch.side("a", "other"), watch.side("b"), watch.side("c")]
    told = clock.measure("row", "what", sides, 2)
    runs = [name for name in watch.log if name != "pause"]
    assert runs == ["a", "b", "c"] + ["a", "b", "c"] + ["b", "c", "a"]
    assert watch.log[::2] == ["pause"] * 9
    assert [side["seconds"] for side in told["sides"]] == [[1.0, 1.0]] * 3


def test_what_is_prepared_is_not_timed_and_times_are_told_for_one_unit(watch):
    def prepare():
        watch.now += 100
        return ()

    told = clock.measure("row", "what", [watch.side("a", seconds=(8.0,), prepare=prepare, units=4)], 2)
    assert told["sides"][0]["seconds"] == [2.0, 2.0]


def test_what_is_quick_is_repeated(watch):
    told = clock.measure("row", "what", [watch.side("a", seconds=(0.03,))], 1)
    assert watch.log.count("a") == 1 + 4
    assert told["sides"][0]["seconds"] == [pytest.approx(0.03)]


@pytest.mark.parametrize("output", [1.1, math.nan, math.inf])
def test_sides_that_differ_are_refused_before_anything_is_timed(watch, output):
    sides = [watch.side("theirs", "other"), watch.side("ours", output=output)]
    with pytest.raises(clock.Disagreement, match="row: ours and theirs differ by .* is not timed"):
        clock.measure("row", "what", sides, 5)
    assert watch.log.count("ours") == 1
    sides[1] = sides[1]._replace(tolerance=0.15)
    if output == 1.1:
        assert clock.measure("row", "what", sides, 5)["sides"][1]["differs"] == pytest.approx(0.1)


def test_difference():
    a = np.array([3.0, 4.0], np.float32)
    assert clock.difference(a, a) == 0
    assert clock.difference(a + [0.0, 0.05], a) == pytest.approx(0.01)
    assert clock.difference(a, a[:1]) == math.inf
    assert (clock.difference("red", "red"), clock.difference("red", "blue")) == (0, math.inf)


# ---- arithmetic ------------------------------------------------------------------------------------------------------
def record(**sides):
    """A record of sides: name=(whose, seconds, work)."""
    told = [
        {"name": name.replace("_", " "), "whose": whose, "seconds": seconds, "work": work, "differs": 1e-6}
        for name, (whose, seconds, work) in sides.items()
    ]
    return {"kind": "compare", "row": "row", "what": "some work", "limit": "reading", "sides": told}


RECORD = record(
    transformers_float32=("other", [4.0, 3.0, 20.0], 0.0),
    minivl_float32=("minivl", [2.0, 3.0, 5.0], 12.0),
    limit=("limit", [1.0, 1.0, 1.0], 8.0),
)


def test_a_ratio_is_taken_within_each_round():
    first, second, limit = RECORD["sides"]
    assert results.ratio(second, first) == (2.0, 1.0, 4.0)  # the ratio of the medians would be 4 / 3
    assert results.share(second, limit) == pytest.approx((12 / 3 / 8, 12 / 5 / 8, 12 / 2 / 8))


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_the_power_with_which_cost_grows(power):
    counts = [1, 2, 4, 8]
    seconds = [[1e9, 3.0 * count**power, 0.0] for count in counts]
    assert results.power(counts, seconds) == pytest.approx(power)


# ---- tables ----------------------------------------------------------------------------------------------------------
def run_of(*records):
    top = {"format": 1, "date": "2026-01-02", "quick": True, "layers": 2, "threads": 2, "rounds": 3}
    about = {"processor": "Abacus 9", "cores": 2, "versions": {"minivl": "0"}}
    return {**top, "machine": about, "results": list(records)}


FORMS = {
    "kind": "forms",
    "row": "large",
    "what": "a model",
    "sides": [
        {"name": "minivl int8", "whose": "minivl", "load": 1.0, "first": 2.0, "each": 0.5}
        | {"weights": 10**9, "peak": 1.15 * 10**9, "mapped": 10**8},
        {"name": "minivl float32", "whose": "minivl", "skipped": "needs 9 GB"},
    ],
}
SWEEP = {
    "kind": "sweep",
    "row": "sweep",
    "what": "pictures",
    "counts": [1, 2],
    "most": 1,
    "sides": [{"name": "minivl float32", "whose": "minivl", "seconds": [[0.1], [0.2]]}],
}
LIMITS = {
    "kind": "limits",
    "row": "limits",
    "what": "this machine",
    "products": {"NumPy": [2.0, 1.0]},
    "operations": 5e9,
    "reading": {"1": [1.0]},
    "bytes": 2 * 10**9,
}
SKIPPED = {"kind": "skipped", "row": "opt", "what": "opt", "reason": "needs 17 GB"}


def test_the_table_says_what_was_measured():
    page = report.page(run_of(LIMITS, RECORD, FORMS, SWEEP, SKIPPED))
    assert "Abacus 9, 2 cores, 2 threads" in page and "2 layers of each stack, 3 rounds (`--quick`)" in page
    assert "| some work, float32 | 3000 | 2.00 (1.00 to 4.00), 4000 |  |  | 50% of reading | 1e-06 |" in page
    assert "| minivl int8 | 1.00 | 2.00 | 0.50 | 1.00 | 1.15 (0.10) | +15% |" in page
    assert "| minivl float32 | skipped: needs 9 GB | | | | | |" in page
    assert "| pictures | minivl float32 | 100 | 200 | 1.00 (at most 1) |" in page
    assert "GFLOP/s: NumPy 5." in page and "GB/s: 2.0 with 1 thread." in page
    assert page.endswith("skipped: opt: needs 17 GB")
    tables = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables if "some work" in line} == {report.HEAD.splitlines()[0].count("|")}


def test_the_brief_table():
    lines = report.brief(run_of(RECORD, FORMS)).splitlines()
    assert lines[-1] == "| some work, float32 | 2.00 (1.00 to 4.00) |  |  | 50% of reading |"
    assert "int8 |" not in lines[-1]


def test_tables_are_put_between_the_marks_of_a_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- minivl bench -->\nold\n<!-- end of minivl bench -->\nafter\n")
    report.put(page, run_of(RECORD))
    report.put(page, run_of(RECORD))
    text = page.read_text()
    assert text.startswith("before\n<!-- minivl bench -->\nAbacus 9") and "old" not in text
    assert text.endswith("|\n<!-- end of minivl bench -->\nafter\n") and text.count("some work") == 1
    page.write_text("no marks")
    with pytest.raises(InputError, match="wanted the lines"):
        report.put(page, run_of(RECORD))


@pytest.mark.parametrize("page", ["README.md", "minivl/tools/bench/README.md"])
def test_the_figures_of_our_pages_are_those_of_the_kept_run(page):
    text, run = Path(page).read_text(), results.load(KEPT)
    begin, end, tables = report.place(text, page)
    assert text[begin:end].strip() == tables(run), f"minivl bench --from {KEPT} --into {page}"
    assert any(result["kind"] == "compare" for result in run["results"])


# ---- JSON ------------------------------------------------------------------------------------------------------------
def test_a_run_survives_its_file(tmp_path):
    run = run_of(LIMITS, RECORD, FORMS, SWEEP, SKIPPED)
    results.save(tmp_path / "run.json", run)
    assert results.load(tmp_path / "run.json") == run


@pytest.mark.parametrize(
    "spoil, wanted",
    [
        (lambda run: run.pop("machine"), "wanted machine, found nothing"),
        (lambda run: run["machine"].pop("processor"), "machine: wanted processor"),
        (lambda run: run.update(format=2), "wanted format 1, found 2"),
        (lambda run: run["results"].append([]), "result 5: wanted an object"),
        (lambda run: run["results"][1].update(kind="odd"), "result 1: wanted a kind among"),
        (lambda run: run["results"][1].pop("sides"), "result 1: wanted sides"),
        (lambda run: run["results"][3]["sides"][0].pop("seconds"), "result 3: side: wanted seconds"),
    ],
)
def test_a_file_that_holds_no_run_is_refused_in_one_line(spoil, wanted, tmp_path, capsys):
    run = json.loads(json.dumps(run_of(LIMITS, RECORD, FORMS, SWEEP, SKIPPED)))
    spoil(run)
    (tmp_path / "run.json").write_text(json.dumps(run))
    assert main(["bench", "--from", str(tmp_path / "run.json")]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and wanted in err


def test_the_picture(tmp_path):
    picture.draw(run_of(LIMITS, RECORD, FORMS, SWEEP, SKIPPED), tmp_path / "run.png")
    assert (tmp_path / "run.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="wanted a place and an ending"):
        picture.draw(run_of(RECORD), tmp_path / "run.words")


def test_the_picture_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["bench", "demo", "--plot", "run.png"]) == 1
    assert "pip install 'minivl[plot]'" in capsys.readouterr().err


# ---- what is measured, and what is not -------------------------------------------------------------------------------
def arguments(*given):
    parser = argparse.ArgumentParser()
    command.options(parser)
    return parser.parse_args(given)


@pytest.fixture
def planned(monkeypatch):
    """Plans that would have been measured in a process, one after the other."""
    found = []
    monkeypatch.setattr(command, "within_a_process", lambda plan: found.append(plan) or iter(()))
    monkeypatch.setattr(machine, "free_memory", lambda: 10**12)
    return found


def test_every_group_has_a_process_of_its_own(planned):
    plan = command.plan_of(arguments())
    assert (plan.rounds, plan.layers, plan.rows) == (5, None, tuple(row.name for row in ROWS))
    list(command.every(plan))
    assert [plan.rows for plan in planned] == list(rows.grouped(plan.rows).values())
    assert sum((plan.rows for plan in planned), ()) == plan.rows


def test_quick_means_two_layers_two_rounds_and_few_processes(planned):
    plan = command.plan_of(arguments("--quick"))
    assert (plan.rounds, plan.layers, plan.quick) == (2, 2, True)
    list(command.every(plan))
    assert [(plan.rows, plan.rounds) for plan in planned[:-1]] == [(("cold",), 1), (("loading",), 1), (("large",), 1)]
    assert set(planned[-1].rows) == {row.name for row in ROWS} - {"cold", "loading", "large"}


def test_rows_are_chosen_by_name(planned):
    list(command.every(command.plan_of(arguments("decode", "vit", "--layers", "7", "--rounds", "2"))))
    assert [(plan.rows, plan.layers, plan.rounds) for plan in planned] == [(("vit",), 7, 2), (("decode",), 7, 2)]
    for wrong in (["nothing"], ["--layers", "0"], ["--rounds", "x"]):
        with pytest.raises(SystemExit):
            arguments(*wrong)


def test_a_row_that_does_not_fit_into_memory_is_skipped_with_the_reason(planned, monkeypatch):
    needs = rows.memory("opt", None)
    assert 15.9e9 < needs < 18e9  # six bytes for each of 2.65 billion numbers, and the rest
    monkeypatch.setattr(machine, "free_memory", lambda: needs - 1)
    (told,) = command.every(Plan(rows=("decode", "vit")))
    assert told["kind"] == "skipped" and told["row"] == "decode"
    assert (
        told["reason"] == f"needs {needs / 1e9:.1f} GB of memory, {needs / 1e9:.1f} GB are free; --layers N needs less"
    )
    assert [plan.rows for plan in planned] == [("vit",)]
    list(command.every(Plan(rows=("decode",), layers=2)))
    assert planned[-1].rows == ("decode",)


def test_the_list(capsys):
    assert main(["bench", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [f"| {row.name}" for row in ROWS]
    assert all(float(line.split(" | ")[2]) > 1 for line in lines)


def test_packages_that_are_missing_are_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(others, "missing", lambda: ["transformers"])
    assert command.plan_of(arguments()).others is False
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "transformers not installed (pip install 'minivl[test]')" in err


def test_a_process_that_dies_is_a_row_that_failed():
    (told,) = command.within_a_process(Plan(rows=("no such row",), others=False))
    assert told["kind"] == "failed" and "ended with status 0" in told["reason"]


def test_without_torch_and_transformers_our_own_rows_are_measured(monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules.update(torch=None, transformers=None)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (failed,) = command.within_a_process(Plan(rows=("qformer",), others=True, layers=1, rounds=1))
    assert failed["kind"] == "failed" and "import of torch halted" in failed["reason"]
    told = list(command.within_a_process(Plan(rows=("demo",), others=False, rounds=1)))
    assert [[side["name"] for side in result["sides"]] for result in told] == [["minivl float32"]] * 2


def test_a_row_that_is_refused_does_not_end_the_others(monkeypatch, capsys):
    def work(group):
        def measure(plan):
            if group == "vision":
                raise MinivlError("ours and theirs differ")
            if group == "t5":
                yield SKIPPED | {"row": "t5-decode"}
                raise RuntimeError("out of\nwits")
            yield SKIPPED

        return measure

    monkeypatch.setattr(child, "work", work)
    plan = Plan(rows=("vit", "t5-decode", "demo"), others=False)
    monkeypatch.setattr(sys, "argv", ["child", json.dumps(plan._asdict())])
    monkeypatch.setattr(child, "leave_on_terminate", lambda: None)
    child.main()
    first, second, third, fourth = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["kind"], first["row"], first["reason"]) == ("failed", "vit", "ours and theirs differ")
    assert second["row"] == "t5-decode" and second["peak"] > 10**6
    assert (third["kind"], third["row"], third["reason"]) == ("failed", "t5-decode", "RuntimeError: out of wits")
    assert fourth["row"] == "opt"


def test_a_failed_row_is_exit_status_1_and_everything_is_in_the_file(monkeypatch, tmp_path, capsys):
    failed = {"kind": "failed", "row": "vit", "what": "vit", "reason": "ours and theirs differ"}
    monkeypatch.setattr(command, "every", lambda plan: iter([RECORD, failed]))
    monkeypatch.setattr(command, "leave_on_terminate", lambda: None)
    file = tmp_path / "run.json"
    assert main(["bench", "vit", "--json", str(file)]) == 1
    run = results.load(file)
    assert run["results"] == [RECORD, failed] and run["threads"] == machine.cores()
    assert {"python", "numpy", "minivl", "blas"} <= set(run["machine"]["versions"])
    out = capsys.readouterr().out
    assert "| some work, float32 |" in out and "failed: vit: ours and theirs differ" in out
    assert main(["bench", "--from", str(file)]) == 1  # and the tables of the file are those that were printed
    assert "| some work, float32 |" in capsys.readouterr().out


# ---- the rows themselves, very small ---------------------------------------------------------------------------------
def small(monkeypatch):
    """Models of the real forms that fit into a moment."""
    text = dict(hidden_size=32, word_embed_proj_dim=32, ffn_dim=64, num_attention_heads=4, num_hidden_layers=2)
    wide = dict(d_model=32, d_kv=8, d_ff=64, num_heads=4, vocab_size=200, num_layers=2, num_decoder_layers=2)
    tower = dict(num_hidden_layers=2, hidden_size=64, vocab_size=200, num_attention_heads=4, intermediate_size=64)
    eyes = dict(num_hidden_layers=2, hidden_size=64, image_size=32, patch_size=16)
    heads = dict(contrastive_hidden_size=16, logit_scale_init_value=2.6592, hidden_size=64, num_attention_heads=4)
    opt, found = (
        {**text, "vocab_size": 200},
        {
            "vit": dict(HEADS, num_hidden_layers=2, intermediate_size=64, image_size=28),
            "qformer": dict(HEADS, num_hidden_layers=2, intermediate_size=64, encoder_hidden_size=32),
            "t5": {
                **wide,
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
                "decoder_start_token_id": 0,
            },
            "bridgetower": dict(heads, num_hidden_layers=2, text_config=tower, vision_config=eyes),
        },
    )
    for name, size in {**found, "opt": opt, "opt_of_4_gb": opt}.items():
        monkeypatch.setattr(real_sizes, name, lambda layers, size=size: size)
    monkeypatch.setattr(clock, "PAUSE", 0)
    monkeypatch.setattr(clock, "LEAST", 1e-9)
    monkeypatch.setattr(processes, "PAUSE", 0)
    monkeypatch.setattr(processes, "IMAGE", 199)
    monkeypatch.setattr(machine, "PRODUCT", 32)
    monkeypatch.setattr(machine, "READ", 1 << 12)
    monkeypatch.setattr(machine, "PAUSE", 0)
    monkeypatch.setattr(sweep, "PICTURES", (1, 2))
    monkeypatch.setattr(sweep, "TOKENS", (4, 8))
    monkeypatch.setattr(towers, "BATCHES", (1, 2))
    monkeypatch.setattr(demo, "LONGEST", 8)


COUNTS = {  # how many results each group gives for all of its rows
    **{"limits": 1, "vision": 3, "opt": 2, "opt-8bit": 2, "t5": 1, "bridgetower": 8, "demo": 2, "sweep": 2},
    **{"loading": 4, "large": 1},
}


@pytest.fixture
def in_this_process(monkeypatch):
    """Our processes and transformers' run as functions."""

    def spoken(given, where=None):
        if "minivl.tools.bench.ours" in given:
            function, argv = ours.main, ["ours", given[-1]]
        else:
            function, argv = lambda: theirs.run(json.loads(given[-1])), []
        monkeypatch.setattr(sys, "argv", argv)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            function()
        return out.getvalue()

    monkeypatch.setattr(processes, "spoken", spoken)


@pytest.mark.parametrize("with_others", [True, False])
@pytest.mark.parametrize("group", COUNTS)
def test_each_row_measures_what_agrees(group, with_others, monkeypatch, in_this_process):
    small(monkeypatch)
    wanted = tuple(row.name for row in ROWS if row.group == group)
    plan = Plan(rows=wanted, rounds=1, threads=2, others=with_others)
    found = list(rows.work(group)(plan))
    assert len(found) == COUNTS[group] and {result["row"] for result in found} == set(wanted)
    results.check(run_of(*found), group)
    report.page(run_of(*found))
    for result in found:
        theirs_too = any(side["whose"] == "other" for side in result.get("sides", ()))
        assert result["kind"] == "limits" or (results.ours(result) and theirs_too == with_others)
        for side in result.get("sides", ()) if result["kind"] == "compare" else ():
            assert len(side["seconds"]) == 1 and side["seconds"][0] > 0
            assert (side["differs"] is None) == (side["whose"] == "limit")


def test_a_side_with_other_weights_is_refused(monkeypatch):
    small(monkeypatch)
    noise = weights.noise
    monkeypatch.setattr(weights, "noise", lambda code, std: noise(code, std)[:: 1 if code == "F32" else -1])
    with pytest.raises(clock.Disagreement, match="decode: transformers bfloat16 and transformers float32 differ"):
        list(rows.work("opt")(Plan(rows=("decode",), rounds=1)))


# ---- weights, limits, processes --------------------------------------------------------------------------------------
def test_weights_are_drawn_once_and_shared(monkeypatch):
    small(monkeypatch)
    import transformers

    config = rows.OPTConfig(**real_sizes.opt(None))
    table = list(names.opt(config))
    full, half = weights.draw(table), weights.draw(table, "BF16")
    q, k = (full[f"model.decoder.layers.0.self_attn.{part}_proj.weight"] for part in "qk")
    assert not np.array_equal(q.array, k.array) and 0.015 < q.array.std() < 0.025
    assert all(clock.difference(half[name].float32(), full[name].float32()) < 0.004 for name in full)
    assert sum(stored.array.size for stored in full.values()) == weights.parameters(table)
    norm = full["model.decoder.layers.0.final_layer_norm.weight"].array
    assert abs(norm - 1).max() < 0.2 and norm.std() > 0
    size = transformers.OPTConfig(**real_sizes.opt(None))
    module = weights.module_of(transformers.OPTForCausalLM, size, full)
    assert module.model.decoder.layers[0].self_attn.q_proj.weight.data_ptr() == q.array.ctypes.data
    assert weights.tree_of(table, full)["layers"][0]["self"]["q"]["w"] is q.array
    narrow = weights.tree_of(table, half, "bfloat16")["layers"][0]["self"]["q"]["w"]
    assert weights.leaves(narrow)[0] is half[q.name].array


def test_every_byte_is_read_by_one_of_the_threads():
    arrays = [np.arange(100, dtype=np.float32).reshape(10, 10), np.ones(64, np.uint16), np.ones((7, 8), np.int8)]
    first, second = machine.shares(arrays, 2)
    assert sum(part.nbytes for part in first) == 200 + 64 + 32 and sum(part.nbytes for part in second) == 200 + 64 + 24
    whole = b"".join(a.tobytes() + b.tobytes() for a, b in zip(first, second, strict=True))
    assert whole == b"".join(array.tobytes() for array in arrays)
    assert machine.reading_limit(arrays, 2).work == 400 + 128 + 56
    assert machine.reader(arrays, 2)() is None


def test_a_process_that_fails_says_why():
    with pytest.raises(MinivlError, match="wanted exit status 0, found 3: a pity"):
        processes.spoken([sys.executable, "-S", "-c", "import sys; print('a pity', file=sys.stderr); sys.exit(3)"])


def test_a_folder_of_random_weights_loads_and_is_found_again(monkeypatch, tmp_path):
    small(monkeypatch)
    config = rows.of_4_gb(None)
    plan = Plan(rows=("loading",), folder=str(tmp_path))
    with processes.folder_of(plan, "loading", config, "F32") as folder:
        model = processes.Blip2ForConditionalGeneration.from_pretrained(folder)
        stamp = (folder / "model.safetensors").stat().st_mtime_ns
    assert sum(w.size for w in model.parameters()) == weights.parameters(names.blip2(config))
    with processes.folder_of(plan, "loading", config, "F32") as again:
        assert (again / "model.safetensors").stat().st_mtime_ns == stamp
    with processes.folder_of(plan._replace(folder=None), "loading", config, "F32") as passing:
        assert (passing / "model.safetensors").exists()
    assert not passing.exists()
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(processes.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(MinivlError, match="of disk, found"):
        with processes.folder_of(plan, "large", config, "BF16"):
            pass


def test_what_is_needed_is_counted_from_the_real_sizes():
    entries = [entry for entry in names.blip2(rows.blip2_opt(None)) if isinstance(entry, tree.Entry)]
    assert weights.parameters(entries) == pytest.approx(3.74e9, rel=0.01)
    assert 3.6e9 < rows.disk("loading", None) < 4.2e9
    assert rows.memory("opt", 2) < 3.5e9 < rows.memory("vision", None)
