"""What the kernels compile to, for five chips of which none is here: every shipped configuration, gates, a snapshot.

Triton cannot interpret and compile in one process, so compile_matrix.py runs in another and leaves JSON.
"""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from compile_matrix import CHIPS as TARGETS
from compile_matrix import PAGE, SNAPSHOT

from minivl.kernels.checking.chips import CHIPS, occupancy

pytestmark = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: pip install 'minivl[triton]'"
)
ROOT = Path(__file__).resolve().parents[2]
REGENERATE = "python tests/helpers/compile_matrix.py --write"


def run(*arguments):
    """A Python process in which Triton compiles."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths, "TRITON_INTERPRET": "0"})  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Everything that was found, as the snapshot has it."""
    found = tmp_path_factory.mktemp("compiled") / "found.json"
    run(ROOT / "tests" / "helpers" / "compile_matrix.py", "--json", found)
    return json.loads(found.read_text())


@pytest.fixture(scope="module")
def launches(compiled):
    """The launches that ship."""
    return [facts for facts in compiled["launches"] if not facts["lesson"]]


def main_loop(facts):
    """As in compiled.py: of the loops with the most products the one with fewest instructions."""
    if not facts["loops"]:
        return None
    most = max(loop["multiply-adds"] for loop in facts["loops"])
    return min((x for x in facts["loops"] if x["multiply-adds"] == most), key=lambda loop: loop["instructions"])


def one(launches, name, chip="sm_90"):
    return next(x for x in reversed(launches) if (x["name"], x["chip"]) == (name, chip))


# ---- gates: a complaint, or None


def fits(facts):
    limit = CHIPS[facts["chip"]].shared
    return None if facts["shared"] <= limit else f"{facts['shared']} bytes of shared memory, the chip has {limit}"


def keeps_everything_in_registers(facts):
    bad = facts["stack"] or facts["spills"]
    return f"{facts['stack']} bytes of stack, {facts['spills']} spills" if bad else None


def uses_tensor_cores(facts):
    loop = main_loop(facts)
    used = facts["products"] and (loop is None or loop["multiply-adds"] and loop["pipes"].get("tensor"))
    return "no tensor core instructions where the time is spent" if "useful" in facts and not used else None


def narrow_loads(facts):
    """Loads of 2 bytes in the loops; in the whole kernel where it has none. A vector beside a loop may be narrow."""
    return sum(part["loads"].get("2", 0) for part in facts["loops"] or [facts])


def loads_no_single_16_bit_numbers(facts):
    return f"{narrow_loads(facts)} loads of 2 bytes" if narrow_loads(facts) and not facts["narrow"] else None


def copies_ahead(facts):
    """NVIDIA's chips only: gfx942 has nothing that copies to shared memory while the program goes on."""
    if "useful" in facts and facts["chip"].startswith("sm_") and not (main_loop(facts) or {}).get("copies"):
        return "no asynchronous copy in the main loop"


GATES = (fits, keeps_everything_in_registers, uses_tensor_cores, loads_no_single_16_bit_numbers, copies_ahead)


@pytest.mark.parametrize("gate", GATES)
def test_every_launch_passes_the_gate(launches, gate):
    names = [(f"{x['name']}: {x['kernel']} on {x['chip']}", gate(x)) for x in launches]
    assert [f"{name}: {complaint}" for name, complaint in names if complaint] == []


@pytest.mark.parametrize("gate", GATES)
def test_every_gate_would_notice(launches, gate):
    """One good launch, broken in the way that the gate is there for."""
    good = one(launches, "attention, CLIP ViT-B")
    bad = {"copies": {}, "loads": {"2": 1}, "pipes": {"alu": 1}, "multiply-adds": 0}
    broken = good | {"shared": 1 << 20, "stack": 8, "loops": [loop | bad for loop in good["loops"]]}
    assert gate(good) is None and gate(broken)


def test_the_matrix_covers_every_kernel_and_chip(launches):
    """A kernel that a wrapper launches, and that no configuration compiles, would pass every gate."""
    taught = {path.stem for path in (ROOT / "kernels").glob("*_naive.py")}
    written = {
        line.split("def ")[1].split("(")[0]
        for path in (ROOT / "kernels").glob("*.py")
        if path.stem not in taught
        for line in path.read_text().splitlines()
        if line.startswith("def ") and "_kernel(" in line
    }
    assert len(written) > 10
    for chip in TARGETS:
        assert written - {facts["kernel"] for facts in launches if facts["chip"] == chip} == set()


def test_reasons_for_narrow_loads_are_not_out_of_date(launches):
    """Where a configuration says why it loads 2 bytes at a time, it does, on some chip."""
    excused = {facts["name"] for facts in launches if facts["narrow"]}
    assert excused == {facts["name"] for facts in launches if facts["narrow"] and narrow_loads(facts)}


# ---- the counts to reach, on sm_90 in float16


def test_attention_of_heads_64_wide_leaves_the_tensor_cores_busy(launches):
    facts = one(launches, "attention, CLIP ViT-B")
    assert (facts["constants"]["BT"], facts["constants"]["BS"], facts["warps"]) == (128, 64, 4)
    assert main_loop(facts)["instructions"] <= 522
    assert facts["useful"] >= 0.94


def test_attention_of_heads_88_and_80_wide_is_not_padded_to_128(launches):
    """88 numbers take 96 columns, 80 take 80; nothing but the tensor cores stands in the way at 88."""
    assert one(launches, "attention, ViT-g")["useful"] == round(88 / 96, 3)
    assert one(launches, "attention, 80 wide")["useful"] >= 0.88


def test_causal_attention_pays_for_its_mask_only_at_the_diagonal(launches):
    plain, causal = (one(launches, f"attention, CLIP ViT-B{kind}") for kind in ("", ", causal"))
    assert main_loop(causal)["instructions"] <= 1.1 * main_loop(plain)["instructions"]


def clocks_of_a_pair(launches, name, chip="sm_90"):
    """Least clocks of a core for one query and one key, in the two kernels of attention's backward together."""
    of_name = {x["kernel"]: x for x in launches if (x["name"], x["chip"]) == (name, chip)}
    parts = [of_name["keys_kernel"], of_name["queries_kernel"]]
    return sum(max(main_loop(x)["bounds"].values()) / (x["constants"]["BT"] * x["constants"]["BS"]) for x in parts)


@pytest.mark.parametrize(
    "name, width", [("CLIP ViT-B", 64), ("ViT-g", 96), ("OPT-2.7B, causal, padded on the left", 80)]
)
def test_attention_backward_waits_for_nothing_but_the_tensor_cores(launches, name, width):
    """Seven products of the padded width, 2048 multiply-adds a clock: nobody who computes dq apart can ask for less.

    At 64 that is 0.21875, and so is the backward of Triton's tutorial, with 20 spills: tutorial_backward.py compiles
    both in one run. Five of the seven products are in the formula.
    """
    assert clocks_of_a_pair(launches, f"attention backward, {name}") <= 7 * width / CHIPS["sm_90"].products


def test_layer_norm_is_short_and_loads_16_bytes_at_a_time(launches):
    facts = one(launches, "layer norm, 1408")
    assert facts["instructions"] <= 280
    assert set(facts["loads"]) == set(facts["stores"]) == {"16"}


# ---- the snapshot


def test_nothing_differs_from_the_snapshot(compiled):
    """Registers, stack, shared memory, instructions per trip, pipes: the diff of the committed file, in words."""
    kept = json.loads(SNAPSHOT.read_text())
    if kept["triton"] != compiled["triton"]:
        pytest.skip(f"the snapshot is of triton {kept['triton']}, and {compiled['triton']} compiles differently")
    assert differences(kept["launches"], compiled["launches"]) == [], f"if this is meant to be: {REGENERATE}"


def differences(old, new):
    """One line for every launch that came, went, or has another value, with the first value that differs."""
    old, new = ({(x["name"], x["chip"], x["kernel"]): x for x in launches} for launches in (old, new))
    lines = [f"{', '.join(key)}: not in the snapshot" for key in new.keys() - old.keys()]
    lines += [f"{', '.join(key)}: gone" for key in old.keys() - new.keys()]
    for key in sorted(old.keys() & new.keys()):
        fields = [name for name in old[key] if old[key][name] != new[key].get(name)]
        if fields:
            lines.append(f"{', '.join(key)}: " + "; ".join(f"{x} {old[key][x]} -> {new[key].get(x)}" for x in fields))
    return lines


def test_the_snapshot_would_notice():
    kept = json.loads(SNAPSHOT.read_text())["launches"]
    assert len({(x["name"], x["chip"], x["kernel"]) for x in kept}) == len(kept)
    assert differences(kept, kept) == []
    changed = [kept[0] | {"registers": kept[0]["registers"] + 1}, *kept[2:]]
    assert len(differences(kept, changed)) == 2


# ---- kernels/README.md


def test_the_page_has_the_snapshot_s_numbers():
    """Every row of its table of counts, and the two ladders."""
    kept, page = json.loads(SNAPSHOT.read_text())["launches"], PAGE.read_text()
    rows = [line for line in page.splitlines() if line.split(" | ")[0][2:] in {facts["name"] for facts in kept}]
    assert len(rows) > 10
    for row in rows:
        name, registers, shared, _, trip, _, useful = [cell.strip() for cell in row.split("|")[1:-1]]
        facts = one(kept, name)
        assert (int(registers), int(shared.replace(",", ""))) == (facts["registers"], facts["shared"]), row
        assert int(trip) == main_loop(facts)["instructions"], row
        assert useful == (f"{facts['useful']:.0%}" if facts.get("useful") else ""), row
    for kind in ("", ", padded to 128", ", strides not in eights", ", naive"):
        name = "attention, ViT-g" + kind
        assert f" | {instructions_per_pair(kept, name)} | {one(kept, name)['useful']:.0%} | " in page, name
    shipped, naive = one(kept, "layer norm, 1408"), one(kept, "layer norm, 1408, naive")
    twice = sum(loop["instructions"] for loop in naive["loops"])  # 1408 numbers in blocks of 1024: two trips
    assert f" | {shipped['instructions']} | " in page and f" | {naive['instructions'] + twice} | " in page


def test_the_page_has_the_snapshot_s_numbers_of_attention_backward():
    """Its rows name a kernel and a configuration."""
    kept, page = json.loads(SNAPSHOT.read_text())["launches"], PAGE.read_text()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines()]
    rows = [row for row in cells if len(row) == 7 and row[0] in ("`keys_kernel`", "`queries_kernel`", "`bias_kernel`")]
    assert len(rows) >= 7
    for row in rows:
        kernel, name, registers, shared, trip, _, useful = row
        of_row = (f"attention backward, {name}", "sm_90", kernel.strip("`"))
        [facts] = [x for x in kept if (x["name"], x["chip"], x["kernel"]) == of_row]
        assert (int(registers), int(shared.replace(",", ""))) == (facts["registers"], facts["shared"]), row
        assert (int(trip), useful) == (main_loop(facts)["instructions"], f"{facts['useful']:.0%}"), row


def instructions_per_pair(launches, name):
    """Of a thread, for a query and a key: in every loop of the naive kernels, in the main loop of the shipped one."""
    total = 0
    for facts in (x for x in launches if (x["name"], x["chip"]) == (name, "sm_90")):
        loops = facts["loops"] if "naive" in name else [main_loop(facts)]
        pairs = facts["constants"]["BT"] * facts["constants"]["BS"]
        total += sum(loop["instructions"] for loop in loops) * facts["warps"] * 32 / pairs
    return round(total)


# ---- the reading of machine code

LOOP = """
.text.k:
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64], P0 ;
        /*0020*/                   HMMA.16816.F32 R4, R8, R12, R4 ;
        /*0030*/                   HGMMA.64x64x16.F32 R4, gdesc[UR4], R4 ;
.L_x_1:
        /*0040*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P1, [R3], R5 ;
        /*0050*/              @!P1 BRA `(.L_x_1) ;
        /*0060*/                   MUFU.EX2 R6, R7 ;
        /*0070*/                   MUFU.EX2 R6, R7 ;
        /*0080*/                   FFMA R6, R7, R8, R9 ;
        /*0090*/                   IADD3 R1, R1, 0x10, RZ ;
        /*00a0*/              @!PT LDS RZ, [RZ] ;
        /*00b0*/                   LDG.E.U16 R1, desc[UR4][R2.64] ;
        /*00c0*/               @P0 BRA `(.L_x_0) ;
        /*00d0*/                   STG.E.128 desc[UR4][R2.64], R4 ;
        /*00e0*/                   EXIT ;
.L_x_2:
        /*00f0*/                   BRA `(.L_x_2) ;
"""

AMD = """
.LBB0_26:                               ;   in Loop: Header=BB0_27 Depth=1
\ts_or_b64 exec, exec, s[4:5]
\tv_mfma_f32_32x32x8_f16 v[0:15], v[132:133], v[50:51], v[0:15]
.LBB0_27:                               ; %.lr.ph
                                        ; =>This Inner Loop Header: Depth=1
\t.loc\t1 12 21                         ; k.py:12:21
\tv_add_u32_e32 v92, s29, v109
\tglobal_load_ushort v1, v[2:3], off
\ts_cbranch_execz .LBB0_26
; %bb.38:                               ;   in Loop: Header=BB0_27 Depth=1
\tv_exp_f32_e32 v1, v1
\ts_branch .LBB0_26
.LBB0_39:
\tglobal_store_dwordx4 v[2:3], v[4:7], off
\ts_endpgm
\t.amdhsa_kernel k
"""

READ = """
import json, sys
from minivl.kernels.checking.chips import CHIPS
from minivl.kernels.checking.machine_code import bounds, global_accesses, mix, products, read_amd, read_sass
chip, warps = CHIPS[sys.argv[1]], int(sys.argv[2])
code = (read_sass if chip.backend == "cuda" else read_amd)(sys.stdin.read())
inside = [i.name for i in code if i.loop == 0]
print(json.dumps([len(code), len(inside), mix(inside, chip.backend), products(inside, warps),
                  bounds(chip, inside, products(inside, warps), warps), global_accesses(inside, "load"),
                  global_accesses([i.name for i in code], "store")]))
"""


def read(text, chip, warps):
    done = subprocess.run([sys.executable, "-c", READ, chip, str(warps)], input=text, capture_output=True, text=True,
                          check=True, env=os.environ | {"PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "0"})  # fmt: skip
    return json.loads(done.stdout)


def test_a_loop_is_found_counted_and_bounded():
    """Worked out by hand, for 8 warps on a chip of 16 special and 128 float32 results and 2048 products per clock."""
    total, inside, pipes, multiply_adds, clocks, loads, stores = read(LOOP, "sm_90", 8)
    assert (total, inside) == (16, 12)
    assert pipes == {"tensor": 2, "special": 2, "fp32": 1, "memory": 3, "control": 3, "alu": 1}
    assert multiply_adds == 16 * 8 * 16 * 8 + 64 * 64 * 16 * 2
    assert clocks == {"special": 2 * 8 * 2, "fp32": 2, "alu": 4, "issue": 24, "tensor": round(multiply_adds / 2048)}
    assert (loads, stores) == ({"2": 1}, {"16": 1})


def test_a_loop_of_amd_s_is_found_counted_and_bounded():
    """For 4 warps of 64 lanes; the part that stands before the loop's first block belongs to it."""
    total, inside, pipes, multiply_adds, clocks, loads, stores = read(AMD, "gfx942", 4)
    assert (total, inside) == (9, 7)
    assert pipes == {"tensor": 1, "special": 1, "memory": 1, "scalar": 3, "vector": 1}
    assert multiply_adds == 32 * 32 * 8 * 4
    assert clocks == {"special": 4 * 64 // 16, "vector": 4, "tensor": 32}
    assert (loads, stores) == ({"2": 1}, {"16": 1})


@pytest.mark.parametrize(
    "chip, warps, registers, shared, share, limit",
    [
        ("sm_90", 4, 255, 0, 2 / 16, "registers"),  # 256 a thread, 8,192 a warp: 2 in each quarter of the core
        ("sm_90", 4, 32, 0, 1.0, "registers"),
        ("sm_80", 8, 32, 80 * 1024, 16 / 64, "shared memory"),  # 81 KiB with what the system keeps: 2 of them in 164
        ("sm_86", 16, 32, 0, 48 / 48, "warps"),
        ("sm_90", 1, 16, 0, 32 / 64, "blocks"),
        ("gfx942", 4, 128, 0, 16 / 32, "registers"),
    ],
)
def test_occupancy(chip, warps, registers, shared, share, limit):
    assert occupancy(CHIPS[chip], warps, registers, shared)[0] == share
    assert share == 1 or occupancy(CHIPS[chip], warps, registers, shared)[1] == limit


def test_the_interpreter_and_the_compiler_are_told_apart():
    with pytest.raises(ValueError, match="start another one with TRITON_INTERPRET=0"):
        import minivl.kernels.checking.compiled  # noqa: F401
