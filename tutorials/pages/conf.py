"""Sphinx's settings. build.py gathers the pages, runs the tutorials and calls Sphinx with this file beside them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # mathml, docstrings

from minivl import __version__

project, author, release = "minivl", "the minivl authors", __version__
html_title = "minivl"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "mathml", "docstrings"]
exclude_patterns = ["_doctrees", "notebooks", "extra", "tests", "tutorials/pictures", "**/__pycache__"]

suppress_warnings = ["toc.not_included"]  # a README deep in a folder is found by the link to it
nb_execution_mode = "off"  # build.py has run them: one that fails has no page
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

viewcode_follow_imported_members = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}

html_theme = "furo"
html_static_path = ["pages.css"]
html_css_files = ["pages.css"]
html_extra_path = ["extra"]
html_show_copyright = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
