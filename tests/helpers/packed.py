"""safetensors files written byte by byte."""

import json
import struct


def pack(header, data=b"", length=None):
    """A safetensors file out of a header (a dict, or bytes as they are) and the bytes after it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


EIGHT = bytes(8)
