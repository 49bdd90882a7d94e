"""Programs for a process without optional packages or without a network."""

PICTURE = "tutorials/pictures/red_circle.png"


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {packages}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.split(".")[0])

sys.meta_path.insert(0, Absent())
"""


OFFLINE = """
import socket

def refuse(*arguments, **named):
    raise AssertionError("something wanted to open a socket")

socket.socket = socket.create_connection = socket.getaddrinfo = refuse
"""


CAPTION = f"""
from minivl.cli import main
sys.exit(main(["caption", {PICTURE!r}]))
"""
