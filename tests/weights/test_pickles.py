"""pytorch_model.bin: read like safetensors, without torch, and without running what a pickle says."""

import collections
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from minivl.errors import WeightsError
from minivl.weights import files, pickles


def write(path, tensors, **how):
    torch.save(tensors, path, **how)
    return path


def archive(path, program, storages=(), root="archive", **other):
    """A zip archive as torch.save writes it, around any program."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{root}/data.pkl", program)
        for name, data in {**{f"data/{i}": x for i, x in enumerate(storages)}, **other}.items():
            file.writestr(f"{root}/{name}", data)
    return path


def some_tensors():
    random = torch.Generator().manual_seed(0)
    x = torch.randn(4, 6, generator=random)
    return collections.OrderedDict(
        plain=x,
        same=x,  # shares the storage, as tied weights do
        turned=x.T,
        part=x[1:3, ::2],
        half=x.half(),
        brain=x.bfloat16(),
        double=x.double(),
        whole=torch.arange(5),
        small=torch.arange(5, dtype=torch.int8),
        yes=torch.tensor([True, False]),
        scalar=torch.tensor(2.5),
        empty=torch.zeros(0, 3),
        parameter=torch.nn.Parameter(x[:2].clone()),
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_tensor_is_read_as_it_is(tmp_path, protocol):
    tensors = some_tensors()
    found = pickles.read_archive(write(tmp_path / "pytorch_model.bin", tensors, pickle_protocol=protocol))
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        if tensor.dtype == torch.bfloat16:
            tensor = tensor.view(torch.int16)
        want = tensor.detach().numpy()
        assert found[name].array.shape == want.shape
        np.testing.assert_array_equal(found[name].array, want.view(np.uint16) if name == "brain" else want, name)
        assert not found[name].array.flags.writeable
    assert found["brain"].dtype == "BF16"


def test_a_state_dict_keeps_its_notes_to_itself(tmp_path):
    state = torch.nn.Linear(3, 2).state_dict()  # an OrderedDict with _metadata hung onto it
    found = pickles.read_archive(write(tmp_path / "x.bin", state))
    np.testing.assert_array_equal(found["weight"].array, state["weight"].numpy())


def test_the_name_of_the_root_may_vary(tmp_path):
    first = write(tmp_path / "pytorch_model.bin", {"x": torch.ones(2)})
    with zipfile.ZipFile(first) as file:
        roots = {name.split("/")[0] for name in file.namelist()}
        parts = {name.split("/", 1)[1]: file.read(name) for name in file.namelist()}
    program = parts.pop("data.pkl")
    again = archive(tmp_path / "again.bin", program, root="quite another", **parts)
    assert roots != {"quite another"}
    np.testing.assert_array_equal(pickles.read_archive(again)["x"].array, [1, 1])


def test_shards_and_their_index(tmp_path):
    tensors = some_tensors()
    names = list(tensors)
    for number, some in enumerate((names[:5], names[5:]), 1):
        write(tmp_path / f"pytorch_model-0000{number}-of-00002.bin", {name: tensors[name] for name in some})
    where = {name: f"pytorch_model-0000{1 + (i >= 5)}-of-00002.bin" for i, name in enumerate(names)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    found = files.read(tmp_path)
    assert set(found) == set(tensors)
    np.testing.assert_array_equal(found["brain"].float32(), tensors["brain"].float().numpy())


def test_safetensors_win(tmp_path):
    write(tmp_path / "pytorch_model.bin", {"x": torch.ones(2)})
    files.save(tmp_path, {"x": np.zeros(2, np.float32)})
    assert files.read(tmp_path)["x"].array.tolist() == [0, 0]


# ---- what is refused -------------------------------------------------------------------------------------------------
def refused(path, *words):
    with pytest.raises(WeightsError) as raised:
        pickles.read_archive(path)
    message = str(raised.value)
    assert "\n" not in message and all(word in message for word in (path.name, *words)), message


class Calls:
    """Something whose pickle calls a function when it is read."""

    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    "function, name",
    [(os.mkdir, "mkdir"), (eval, "eval"), (getattr, "getattr"), (torch.nn.Linear, "Linear"), (np.load, "load")],
)
def test_a_pickle_that_calls_something_is_refused_by_name_and_not_run(tmp_path, function, name, protocol):
    mark = tmp_path / "was run"
    program = pickle.dumps({"x": Calls(function, str(mark))}, protocol)
    refused(archive(tmp_path / "evil.bin", program), name if protocol else "instruction", "not run")
    assert not mark.exists()


def test_nothing_runs_before_the_whole_program_was_read(tmp_path):
    good, evil = pickle.dumps({}, 2)[:-1], b"cposix\nsystem\n."
    refused(archive(tmp_path / "late.bin", good + b"0" + evil), "POP")
    refused(archive(tmp_path / "late.bin", good + evil), "posix.system", "not run")


PROGRAMS = {
    "nothing": (b"", "data.pkl"),
    "cut short": (pickle.dumps({"x": 1}, 2)[:-3], "data.pkl"),
    "no dict": (pickle.dumps([1], 2), "list"),
    "no tensors": (pickle.dumps({"lr": 0.1}, 2), "lr"),
    "a number for a name": (pickle.dumps({1: 0.1}, 2), "key of type int"),
    "a memo of two billion places": (b"\x80\x02}r\xff\xff\xff\x7f.", "2147483647"),
    "an object that is none": (b"\x80\x02ctorch\nFloatStorage\n)R.", "not callable"),
    "a storage that is not there": (b"\x80\x02(X\x07\x00\x00\x00storageX\x01\x00\x00\x00xNNNtQ.", "storage"),
}


@pytest.mark.parametrize("program, word", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_that_make_no_sense(tmp_path, program, word):
    refused(archive(tmp_path / "odd.bin", program), word)


class Shaped:
    """A tensor whose numbers are lies."""

    def __init__(self, *place):
        self.place = place

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Stored(), *self.place, False, collections.OrderedDict())


class Stored:
    pass


class Writer(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", torch.FloatStorage, "0", "cpu", 4) if isinstance(thing, Stored) else None


@pytest.mark.parametrize(
    "place",
    [(1, (4,), (1,)), (0, (5,), (1,)), (0, (2**40,), (0,)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (2, 2), (1,)),
     (0, (2, 2), (3, 1)), (0, ("2",), (1,)), (2**62, (1,), (1,))],
)  # fmt: skip
def test_a_tensor_outside_its_storage(tmp_path, place):
    buffer = io.BytesIO()
    Writer(buffer, 2).dump({"x": Shaped(*place)})
    refused(archive(tmp_path / "lies.bin", buffer.getvalue(), [np.ones(4, np.float32).tobytes()]), "a tensor at")


def test_a_state_dict_inside_another_dict_is_called_a_dict(tmp_path):
    torch.save({"model": torch.nn.Linear(2, 2).state_dict(), "epoch": 1}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="wanted only tensors, found 'model', which is a dict$"):
        files.read(tmp_path)


def test_archives_that_are_none(tmp_path):
    path = tmp_path / "x.bin"
    for data, word in (
        (b"", "archive"),
        (b"cposix\nsystem\n(S'touch ran'\ntR.", "zip archive"),
        (b"PK\3\4", "zip archive"),
    ):
        path.write_bytes(data)
        refused(path, word)
    old = write(tmp_path / "old.bin", {"x": torch.ones(2)}, _use_new_zipfile_serialization=False)
    refused(old, "before 1.6")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({}, 2) + bytes(10**6))
    refused(path, "compressed")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", b"."), file.writestr("b/data.pkl", b".")
    refused(path, "one data.pkl", "2")
    refused(archive(path, pickle.dumps({}, 2), byteorder=b"big"), "byteorder")


def test_a_file_cut_short_anywhere(tmp_path):
    whole = write(tmp_path / "whole.bin", some_tensors()).read_bytes()
    cut = tmp_path / "cut.bin"
    for end in range(0, len(whole), 97):
        cut.write_bytes(whole[:end])
        refused(cut)


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    whole, rng = write(tmp_path / "whole.bin", some_tensors()).read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.bin"
    for _ in range(300):
        data = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            data[place] = rng.integers(256)
        damaged.write_bytes(data)
        try:
            found = pickles.read_archive(damaged)
        except WeightsError as error:
            assert "\n" not in str(error)
        else:
            assert all(isinstance(part.array, np.ndarray) for part in found.values())


def test_torch_is_not_needed(tmp_path):
    write(tmp_path / "pytorch_model.bin", {"x": torch.ones(2)})
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from minivl.weights import files\n"
        f"assert files.read({str(tmp_path)!r})['x'].array.tolist() == [1, 1]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(files.__file__).parents[2])
