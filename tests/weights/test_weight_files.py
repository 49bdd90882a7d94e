"""Checkpoint files: what is well formed comes back unchanged and unread, everything else is refused in one line."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from packed import EIGHT, entry, pack
from safetensors import SafetensorError
from safetensors.numpy import load as theirs_load
from safetensors.numpy import save_file as theirs_save

from minivl.errors import InputError, WeightsError
from minivl.weights import files, places
from minivl.weights.files import DTYPES, Stored


def refused(folder, *words):
    """The folder cannot be read, and the one line that says so holds these words."""
    with pytest.raises(WeightsError) as raised:
        files.read(folder)
    text = str(raised.value)
    assert "\n" not in text and "wanted" in text and "found" in text, text
    assert all(word in text for word in words), text


# ---------------------------------------------------------------------------------------- malformed files

MALFORMED = {
    "no bytes": (b"",),
    "seven bytes": (b"1234567",),
    "text": (b"this is a README and not a checkpoint", "at most 16777216"),
    "header 2^63": (pack({}, length=2**63), "9223372036854775808"),
    "header above the cap": (pack(b"{" + b" " * 16 * 2**20 + b"}"), "16777218"),
    "header cut short": (pack(b"{}", length=3),),
    "empty header": (pack(b""),),
    "list": (pack(b"[]"),),
    "not JSON": (pack(b"{]"), "JSON"),
    "not UTF-8": (pack(b'{"\xff": 1}'), "UTF-8"),
    "deep": (pack(b'{"a":' + b"[" * 100_000),),
    "name twice": (pack(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), EIGHT), "'a' twice"),
    "key twice": (pack(b'{"a":{"dtype":"F32","dtype":"F64","shape":[1],"data_offsets":[0,8]}}', EIGHT),),
    "metadata no dict": (pack({"__metadata__": []}),),
    "metadata number": (pack({"__metadata__": {"format": 1}}),),
    "name with a line break": (pack({"../../passwd\n\0": entry()}, EIGHT), r"'../../passwd\n\x00'", "printable"),
    "lone surrogate": (pack(b'{"\\ud800":%s}' % json.dumps(entry()).encode(), EIGHT),),
    "entry no dict": (pack({"a": [1]}),),
    "no dtype": (pack({"a": {"shape": [2], "data_offsets": [0, 8]}}, EIGHT),),
    "no shape": (pack({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, EIGHT),),
    "no offsets": (pack({"a": {"dtype": "F32", "shape": [2]}}, EIGHT),),
    "unknown dtype": (pack({"a": entry("C64", (1,))}, EIGHT), "'a'", "'C64'"),
    "lower case dtype": (pack({"a": entry("f32")}, EIGHT),),
    "dtype no string": (pack({"a": entry(["F32"])}, EIGHT),),
    "F8": (pack({"a": entry("F8_E4M3", (8,))}, EIGHT), "'a'", "F8_E4M3", "convert"),
    "shape no list": (pack({"a": entry() | {"shape": 2}}, EIGHT),),
    "shape float": (pack({"a": entry(shape=(2.0,))}, EIGHT),),
    "shape bool": (pack({"a": entry(shape=(2, True))}, EIGHT),),
    "shape negative": (pack({"a": entry(shape=(-1, -2))}, EIGHT),),
    "shape 2^62 x 4": (pack({"a": entry(shape=(2**62, 4))}, EIGHT),),
    "shape beyond 64 bits": (pack({"a": entry(shape=(2**64, 2))}, EIGHT),),
    "shape 0 x 2^40": (pack({"a": entry(shape=(0, 2**40), offsets=(0, 0))}), "'a'", "2**40"),
    "33 axes": (pack({"a": entry(shape=(1,) * 32 + (2,))}, EIGHT), "'a'"),
    "offsets one": (pack({"a": entry(offsets=(8,))}, EIGHT),),
    "offsets three": (pack({"a": entry(offsets=(0, 8, 8))}, EIGHT),),
    "offsets negative": (pack({"a": entry(offsets=(-8, 0))}, EIGHT),),
    "offsets backwards": (pack({"a": entry(offsets=(8, 0))}, EIGHT),),
    "offsets beyond 63 bits": (pack({"a": entry(offsets=(2**63 - 8, 2**63))}, EIGHT),),
    "offsets far away": (pack({"a": entry(offsets=(2**63 - 9, 2**63 - 1))}, EIGHT),),
    "offsets string": (pack({"a": entry(offsets=("0", "8"))}, EIGHT),),
    "size is not shape x dtype": (pack({"a": entry(shape=(3,))}, EIGHT),),
    "data cut short": (pack({"a": entry()}, EIGHT[:7]),),
    "no data": (pack({"a": entry()}),),
    "trailing byte": (pack({"a": entry()}, EIGHT + b"x"),),
    "trailing bytes without tensors": (pack({}, b"xyz"),),
    "starts with a hole": (pack({"a": entry(offsets=(4, 12))}, bytes(12)),),
    "hole": (pack({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),),
    "overlap": (pack({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),),
    "same bytes twice": (pack({"a": entry(), "b": entry()}, EIGHT),),
    "empty inside another": (pack({"a": entry(), "b": entry(shape=(0,), offsets=(4, 4))}, EIGHT),),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED.values(), ids=MALFORMED)
def test_malformed_file_is_refused(tmp_path, case):
    data, *words = case
    (tmp_path / "model.safetensors").write_bytes(data)
    refused(tmp_path, str(tmp_path / "model.safetensors"), *words)


def child(code, *arguments):
    """What a Python of its own prints when it runs this code."""
    environment = os.environ | {"PYTHONPATH": str(Path(files.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("shape", "end"), [([2**34], 2**36), ([2**34], 8), ([0, 2**39], 0)])
def test_nothing_is_allocated_for_a_claim(tmp_path, shape, end):
    """Sixty-four gigabytes that are not there are refused by arithmetic, in a child that may take 300 MB more."""
    (tmp_path / "model.safetensors").write_bytes(pack({"a": entry(shape=shape, offsets=(0, end))}, bytes(min(end, 8))))
    code = """
import resource, sys
from minivl.weights import files
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + 300 * 2**20,) * 2)
try:
    print("read", files.read(sys.argv[1])["a"].array.shape)
except files.WeightsError as problem:
    print("refused", problem)
"""
    assert child(code, tmp_path).startswith(f"read {tuple(shape)}" if end == 0 else "refused")


def test_a_file_that_shrinks_between_two_looks(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack({"a": entry()}, EIGHT))
    real = path.stat().st_size
    monkeypatch.setattr(files.os, "fstat", lambda _: os.stat_result([0] * 6 + [real, 0, 0, 0]))
    assert list(files.read(tmp_path)) == ["a"]
    path.write_bytes(path.read_bytes()[:-8])
    refused(tmp_path, str(path), "cut short")


def test_a_short_read_and_an_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pack({"a": entry()}, EIGHT))
    monkeypatch.setattr(files.os, "fstat", lambda _: os.stat_result([0] * 6 + [10**6, 0, 0, 0]))
    path.write_bytes(path.read_bytes()[:40])
    refused(tmp_path, str(path), "invalid header length", "cut short")
    monkeypatch.undo()
    monkeypatch.setattr(
        Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EACCES, "Permission denied"))
    )
    refused(tmp_path, str(path), "Permission denied")


# ---------------------------------------------------------------------------------------- well formed files


def sample(rng):
    return {
        "encoder.weight": rng.normal(size=(3, 5)).astype(np.float32),
        "encoder.bias": rng.normal(size=5).astype(np.float32),
        "logit_scale": np.array(2.6592, np.float32),
        "nothing": np.zeros((0, 7), np.float32),
    }


def test_reads_every_dtype_that_the_safetensors_library_writes(tmp_path):
    rng = np.random.default_rng(0)
    wanted = {code: (rng.normal(size=(3, 5)) * 10).astype(kind) for code, kind in DTYPES.items() if code != "BF16"}
    theirs_save(wanted, tmp_path / "model.safetensors")
    got = files.read(tmp_path)
    assert got.keys() == wanted.keys()
    for code, array in wanted.items():
        assert got[code].dtype == code and got[code].array.dtype == array.dtype and got[code].name == code
        np.testing.assert_array_equal(got[code].array, array)


def test_views_are_of_the_file_and_cannot_be_written(tmp_path):
    files.save(tmp_path, sample(np.random.default_rng(0)))
    for stored in files.read(tmp_path).values():
        assert not stored.array.flags.writeable and not stored.array.flags.owndata
        assert type(stored.array) is np.ndarray
        assert stored.float32() is stored.array  # no copy
        with pytest.raises(ValueError, match="WRITEABLE|writeable"):
            stored.array.flags.writeable = True
        with pytest.raises(ValueError, match="read-only"):
            stored.array[...] = 1


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's account of resident memory")
def test_reading_costs_no_memory_until_a_tensor_is_used(tmp_path):
    block = np.ones((5, 2**21), np.float32)  # 40 MB each, 200 MB in all
    files.save(tmp_path, {f"layers.{i}.weight": block for i in range(5)})
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > 200 * 10**6
    code = """
import sys
from minivl.weights import files
def memory(kind):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(kind))
before = memory("VmHWM")
tensors = files.read(sys.argv[1])
after = memory("VmHWM")
tensors["layers.3.weight"].float32().sum()
print(after - before, memory("VmHWM") - after)
"""
    reading, using = map(int, child(code, tmp_path).split())
    assert reading < 0.1 * size
    assert 0.15 * size < using < 0.3 * size  # one tensor in five is a fifth of the file


def test_a_header_that_is_no_multiple_of_eight_still_reads(tmp_path):
    values = np.arange(2, dtype=np.float32)
    (tmp_path / "model.safetensors").write_bytes(pack(json.dumps({"a": entry()}).encode() + b" ", values.tobytes()))
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd/model.safetensors").write_bytes(
        pack(json.dumps({"a": entry()}).encode() + b"  ", values.tobytes())
    )
    for folder in (tmp_path, tmp_path / "odd"):
        np.testing.assert_array_equal(files.read(folder)["a"].float32(), values)


def test_the_largest_header_and_the_deepest_shape_that_are_allowed(tmp_path):
    text = json.dumps({"a": entry(shape=(1,) * 31 + (2,))}).encode()
    (tmp_path / "model.safetensors").write_bytes(pack(text + b" " * (16 * 2**20 - len(text)), EIGHT))
    assert files.read(tmp_path)["a"].array.shape == (1,) * 31 + (2,)


def test_order_of_the_header_does_not_matter_nor_do_keys_of_the_future(tmp_path):
    header = {"b": entry(offsets=(8, 16)) | {"checksum": "?"}, "a": entry(), "__metadata__": {"format": "pt"}}
    (tmp_path / "model.safetensors").write_bytes(pack(header, np.arange(4, dtype="<f4").tobytes()))
    got = files.read(tmp_path)
    assert sorted(got) == ["a", "b"] and got["b"].array.tolist() == [2, 3]


def test_float32_of_every_floating_kind_and_of_no_other(tmp_path):
    values = np.array([[0.5, -0.0, 1.0], [np.inf, -3.140625, 65504.0]])
    for kind in (np.float16, np.float64, np.float32):
        got = Stored("?", values.astype(kind)).float32()
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, values.astype(np.float32))
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    got = Stored("BF16", bits).float32()
    np.testing.assert_array_equal(got, np.array([[0.5, -0.0, 1.0], [np.inf, -3.140625, 65280.0]], np.float32))
    assert np.signbit(got[0, 1]) and got.dtype == np.float32 and got.shape == (2, 3)
    assert Stored("BF16", np.array(0x3F80, np.uint16)).float32().shape == ()
    with pytest.raises(WeightsError, match="'position_ids'.*floating.*I64"):
        Stored("I64", np.arange(3), "position_ids").float32()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_check_finite_says_where(tmp_path, dtype, bad, monkeypatch):
    monkeypatch.setattr(files, "BLOCK", 4)
    array = np.full((3, 3), 60000.0, np.float32)
    files.save(tmp_path, {"good": array, "bad": np.where(np.arange(9).reshape(3, 3) == 7, bad, array)}, dtype)
    got = files.read(tmp_path)
    got["good"].check_finite()
    with pytest.raises(WeightsError, match="'bad'.*finite.*at 7"):
        got["bad"].check_finite()


# ---------------------------------------------------------------------------------------- saving

NAMES = st.text(st.characters(categories=["L", "N", "P", "S"]), max_size=12).filter(
    lambda name: name != "__metadata__" and name.isprintable()
)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
ARRAYS = st.sampled_from(["f4", "f4", "f2", "f8", "i8", "i4", "u1", "?", ">f4", ">i4"]).flatmap(
    lambda kind: hnp.arrays(kind, SHAPES)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tensors=st.dictionaries(NAMES, ARRAYS, max_size=6), fortran=st.booleans())
def test_what_is_saved_comes_back_and_the_library_reads_the_same(tmp_path, tensors, fortran):
    with np.errstate(over="ignore"):  # float64 values that float32 cannot hold have a test of their own
        tensors = {
            name: array.astype(np.float32).astype(array.dtype) if array.dtype == np.float64 else array
            for name, array in tensors.items()
        }
    given_arrays = {name: array.copy(order="F" if fortran else "C") for name, array in tensors.items()}
    files.save(tmp_path, given_arrays)
    got, theirs = files.read(tmp_path), theirs_load((tmp_path / "model.safetensors").read_bytes())
    assert got.keys() == theirs.keys() == tensors.keys()
    for name, array in tensors.items():
        want = array.astype(np.float32) if array.dtype.kind == "f" else array
        np.testing.assert_array_equal(got[name].array, want)
        np.testing.assert_array_equal(got[name].array, theirs[name])
        assert got[name].array.dtype == want.dtype.newbyteorder("=") == theirs[name].dtype
        assert got[name].array.shape == theirs[name].shape == array.shape


@settings(max_examples=200, deadline=None)
@given(
    hnp.arrays(np.float32, st.integers(1, 64), elements=st.floats(width=32)), st.sampled_from(["float16", "bfloat16"])
)
def test_halves_are_rounded_as_torch_rounds_them(array, dtype):
    torch = pytest.importorskip("torch")
    want = torch.from_numpy(array).to(getattr(torch, dtype)).float().numpy()
    got = Stored(files.FLOATS[dtype], files.convert(array, files.FLOATS[dtype])).float32()
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(np.signbit(got[~np.isnan(got)]), np.signbit(want[~np.isnan(want)]))


def test_bfloat16_ties_go_to_even_and_nan_stays_nan():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F800001, 0xFFFFFFFF, 0x80000000], np.uint32)
    got = files.convert(bits.view(np.float32), "BF16")
    assert [hex(one) for one in got] == ["0x3f80", "0x3f82", "0x3f81", "0x3f80", "0x7fc0", "0xffff", "0x8000"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_torch_reads_a_file_of_halves(tmp_path, dtype):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    tensors = sample(np.random.default_rng(0)) | {"ids": np.arange(3)}
    files.save(tmp_path, tensors, dtype)
    theirs, got = load_file(tmp_path / "model.safetensors"), files.read(tmp_path)
    for name, array in tensors.items():
        if name == "ids":
            assert theirs[name].tolist() == [0, 1, 2] and got[name].dtype == "I64"
            continue
        assert theirs[name].dtype == getattr(torch, dtype) and got[name].array.dtype.itemsize == 2
        np.testing.assert_array_equal(got[name].float32(), theirs[name].float().numpy())
        np.testing.assert_array_equal(theirs[name].float(), torch.tensor(array).to(getattr(torch, dtype)).float())


def test_the_file_is_laid_out_for_its_readers(tmp_path, monkeypatch):
    """Every tensor starts at a multiple of its width, transformers finds its mark, and blocks join without a seam."""
    from safetensors import safe_open

    monkeypatch.setattr(files, "BLOCK", 7)
    tensors = {"a": np.arange(3, dtype=np.int8), "b": np.arange(100, dtype=np.float64), "c": np.arange(5)}
    files.save(tmp_path, tensors, "float16")
    with safe_open(tmp_path / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
    for name, stored in files.read(tmp_path).items():
        assert stored.array.flags.aligned and stored.array.ctypes.data % stored.array.itemsize == 0
        np.testing.assert_array_equal(stored.array, tensors[name])


def test_saving_changes_no_array_and_makes_the_folder(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    files.save(tmp_path / "new/folder", {"a": array[:, ::-1]}, "bfloat16")
    assert files.read(tmp_path / "new/folder")["a"].float32().tolist() == [[2, 1, 0], [5, 4, 3]]
    assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(("value", "dtype"), [(65520, "float16"), (3.4e38, "bfloat16"), (1e39, "float32")])
@pytest.mark.filterwarnings("error")
def test_a_value_beyond_the_range_is_refused_and_the_old_file_stands(tmp_path, value, dtype):
    files.save(tmp_path, {"a": np.ones(3)})
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(WeightsError) as raised:
        files.save(tmp_path, {"a": np.ones(3), "big": np.array([np.nan, 1, -value, np.inf])}, dtype)
    assert "'big'" in str(raised.value) and dtype in str(raised.value) and str(float(value)) in str(raised.value)
    assert os.listdir(tmp_path) == ["model.safetensors"] and (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"a": np.array(["x"])}, ["'a'", "<U1"]),
        ({"a": np.array([1j])}, ["'a'", "complex128"]),
        ({"a": np.array([None])}, ["'a'", "object"]),
        ({"a": [1.0]}, ["'a'", "list"]),
        ({"a\n": np.ones(1)}, [r"'a\n'", "printable"]),
        ({"__metadata__": np.ones(1)}, ["__metadata__"]),
        ({3: np.ones(1)}, ["3", "printable"]),
    ],
)
def test_what_no_file_can_hold_is_refused(tmp_path, tensors, words):
    with pytest.raises(WeightsError) as raised:
        files.save(tmp_path / "new", tensors)
    assert all(word in str(raised.value) for word in words) and "\n" not in str(raised.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("dtype", ["F32", "int8", "bf16", None, "torch.float16"])
def test_an_unknown_dtype_is_refused(tmp_path, dtype):
    with pytest.raises(InputError, match="float32, float16, bfloat16"):
        files.save(tmp_path, {}, dtype)


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, step):
    files.save(tmp_path, {"a": np.ones(3)})
    kept = files.read(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space"):
        files.save(tmp_path, {"a": np.zeros(3)})
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert files.read(tmp_path)["a"].array.tolist() == kept["a"].array.tolist() == [1, 1, 1]


def test_a_process_killed_while_saving_leaves_the_old_file(tmp_path):
    files.save(tmp_path, {"a": np.ones(3)})
    code = """
import os, sys, numpy as np
from minivl.weights import files
os.fsync = lambda _: os.kill(os.getpid(), 9)
files.save(sys.argv[1], {"a": np.zeros(3)})
"""
    with pytest.raises(AssertionError):
        child(code, tmp_path)
    assert len(os.listdir(tmp_path)) == 2  # the half-made file has another name
    assert files.read(tmp_path)["a"].array.tolist() == [1, 1, 1]


def test_saving_over_the_file_in_use_leaves_its_views_alone(tmp_path):
    files.save(tmp_path, {"a": np.ones(3)})
    view = files.read(tmp_path)["a"].array
    files.save(tmp_path, {"a": view * 2, "b": view})
    assert view.tolist() == [1, 1, 1] and files.read(tmp_path)["a"].array.tolist() == [2, 2, 2]


# ---------------------------------------------------------------------------------------- shards and folders


def shards(folder, weight_map, **contents):
    """A sharded checkpoint; contents: file stem -> {tensor name: value}."""
    folder.mkdir(parents=True, exist_ok=True)
    for stem, tensors in contents.items():
        theirs_save(
            {name: np.full(2, value, np.float32) for name, value in tensors.items()}, folder / f"{stem}.safetensors"
        )
    index = {"metadata": {"total_size": 16}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_shards_are_one_checkpoint(tmp_path):
    shards(tmp_path, {"a": "x.safetensors", "b": "y.safetensors"}, x={"a": 1}, y={"b": 2, "forgotten": 3})
    got = files.read(tmp_path)
    assert {name: stored.array.tolist() for name, stored in got.items()} == {
        "a": [1, 1],
        "b": [2, 2],
        "forgotten": [3, 3],
    }


def test_shards_of_transformers_are_read(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    config = transformers.OPTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=50, word_embed_proj_dim=32
    )
    model = transformers.OPTForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    got, want = files.read(tmp_path), model.state_dict()
    assert got.keys() == want.keys() - {"lm_head.weight"}
    for name, stored in got.items():
        assert stored.dtype == "BF16"
        np.testing.assert_array_equal(stored.float32(), want[name].float().numpy())


def test_a_whole_file_comes_before_an_index(tmp_path):
    shards(tmp_path, {"a": "x.safetensors"}, x={"a": 1}, model={"a": 2})
    assert files.read(tmp_path)["a"].array.tolist() == [2, 2]


BAD_NAMES = [
    "../x.safetensors",
    "/etc/passwd",
    "sub/x.safetensors",
    "..",
    ".",
    "",
    "C:x",
    "a\\b",
    "x\n",
    "x\0.safetensors",
]


@pytest.mark.parametrize("file", BAD_NAMES, ids=repr)
def test_a_shard_name_that_leaves_the_folder_is_refused(tmp_path, file):
    folder = tmp_path / "model"
    shards(folder, {"a": file}, x={"a": 1})
    (tmp_path / "x.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    (folder / "sub").mkdir()
    (folder / "sub/x.safetensors").write_bytes((folder / "x.safetensors").read_bytes())
    refused(folder, "plain name", repr(file))


X, Y = "x.safetensors", "y.safetensors"
BAD_INDEXES = {
    "missing shard": (
        {"a": X, "b": "model-00002-of-00002.safetensors"},
        ["model-00002-of-00002.safetensors", "no such"],
    ),
    "in two shards": ({"a": X, "b": Y, "c": Y}, ["'c'", X, Y, "once"]),
    "lacking": ({"a": X, "z": X}, ["'z'", X, "nowhere"]),
    "in the other shard": ({"a": X, "b": X, "d": Y}, ["'b'", "once"]),
    "no map": (None, ["weight_map", "None"]),
    "empty map": ({}, ["weight_map"]),
    "a list": (["a"], ["weight_map"]),
    "file no string": ({"a": 1}, ["weight_map"]),
}


@pytest.mark.parametrize(("weight_map", "words"), BAD_INDEXES.values(), ids=BAD_INDEXES)
def test_a_bad_index_is_refused(tmp_path, weight_map, words):
    shards(tmp_path, weight_map, x={"a": 1, "c": 1, "b": 5}, y={"b": 2, "c": 3, "d": 4})
    if "in two shards" in words or "'c'" in words:
        theirs_save({"a": np.ones(2), "c": np.ones(2)}, tmp_path / X)
    refused(tmp_path, *words)


def test_a_tensor_in_another_shard_than_the_index_says_is_refused(tmp_path):
    shards(tmp_path, {"a": X, "b": Y, "c": Y}, x={"a": 1, "c": 1}, y={"b": 2})
    refused(tmp_path, "'c'", f"in {Y}", f"in {X}")


def test_an_index_that_names_a_tensor_twice_is_refused(tmp_path):
    shards(tmp_path, {}, x={"a": 1})
    (tmp_path / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}'
    )
    refused(tmp_path, "'a' twice")


def test_a_malformed_shard_is_named(tmp_path):
    shards(tmp_path, {"a": X, "b": Y}, x={"a": 1}, y={"b": 2})
    (tmp_path / Y).write_bytes((tmp_path / Y).read_bytes()[:-1])
    refused(tmp_path, str(tmp_path / Y), "cut short")


@pytest.mark.parametrize("name", ["model.safetensors", "x.safetensors", "model.safetensors.index.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path, name):
    folder = tmp_path / "model"
    shards(folder, {"a": X}, x={"a": 1})
    if name == "model.safetensors":
        theirs_save({"a": np.ones(2)}, folder / name)
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to("../elsewhere")
    refused(folder, str(folder / name), "link", str(tmp_path / "elsewhere"))
    (folder / name).unlink()
    (tmp_path / "elsewhere").rename(folder / "same folder")
    (folder / name).symlink_to("same folder")
    assert list(files.read(folder)) == ["a"]


def test_the_layout_of_the_hub_cache_is_followed(tmp_path):
    repo, other = tmp_path / "models--some--model", tmp_path / "models--other"
    for place in (repo, other):
        (place / "blobs").mkdir(parents=True)
        theirs_save({"a": np.ones(2)}, place / "blobs/abc")
    snapshot = repo / "snapshots/0123"
    snapshot.mkdir(parents=True)
    link = snapshot / "model.safetensors"
    link.symlink_to("../../blobs/abc")
    assert list(files.read(snapshot)) == ["a"]
    (tmp_path / "link to snapshot").symlink_to(snapshot)
    assert list(files.read(tmp_path / "link to snapshot")) == ["a"]
    for elsewhere in ("../../../models--other/blobs/abc", "../other revision/model.safetensors"):
        (repo / "snapshots/other revision").mkdir(exist_ok=True)
        theirs_save({"a": np.ones(2)}, repo / "snapshots/other revision/model.safetensors")
        link.unlink()
        link.symlink_to(elsewhere)
        refused(snapshot, "link")
    link.unlink()
    link.symlink_to("../../blobs/gone")
    refused(snapshot, "broken link")


@pytest.mark.parametrize("make", ["mkdir", "fifo"])
def test_what_is_no_file_is_refused_at_once(tmp_path, make):
    path = tmp_path / "model.safetensors"
    path.mkdir() if make == "mkdir" else os.mkfifo(path)
    refused(tmp_path, str(path), "no regular file")


@pytest.mark.parametrize("name", ["pytorch_model-00001-of-00002.bin", "model.pt", "model.pkl"])
def test_a_pickle_alone_is_refused_with_the_way_out(tmp_path, name):
    (tmp_path / name).write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    refused(tmp_path, name, "pickle", "safetensors", "safe_serialization=True")


def test_an_empty_folder_is_refused(tmp_path):
    refused(tmp_path, str(tmp_path), "model.safetensors.index.json", "neither")


def test_find(tmp_path):
    inside = Path(files.__file__).parents[1] / "demo"
    assert places.find("demo") == inside / "blip2" and places.find("demo-bridgetower") == inside / "bridgetower"
    assert places.find(tmp_path) == places.find(str(tmp_path)) == tmp_path
    (tmp_path / "file").write_text("")
    for wrong, word in [
        (tmp_path / "file", "a file"),
        (tmp_path / "absent", "no such folder"),
        ("two\nlines", "no such folder"),
        ("nul\0", "no such folder"),
        (None, "None"),
        (3, "3"),
        (["demo"], "['demo']"),
    ]:
        with pytest.raises(WeightsError) as raised:
            places.find(wrong)
        assert word in str(raised.value) and '"demo"' in str(raised.value) and "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------- bytes at random

GOOD = pack({"a": entry(), "b": entry("F16", (2, 2), (8, 16)), "__metadata__": {"format": "pt"}}, bytes(range(16)))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4), st.integers(-20, 20))
def test_a_damaged_file_reads_or_is_refused_and_never_more_gladly_than_the_library(tmp_path, damage, extra):
    data = bytearray(GOOD)
    for place, byte in damage:
        data[place] = byte
    data = bytes(data[:extra]) if extra < 0 else bytes(data) + bytes(max(extra - 10, 0))
    (tmp_path / "model.safetensors").write_bytes(data)
    try:
        theirs = theirs_load(data)
    except (SafetensorError, AttributeError, TypeError):  # the last two: dtypes that NumPy lacks
        theirs = None
    try:
        got = files.read(tmp_path)
    except WeightsError:
        return
    assert theirs is not None and got.keys() == theirs.keys()
    for name, stored in got.items():
        np.testing.assert_array_equal(stored.array, theirs[name])
