"""Configurations of both families: every setting of the Hub's config.json with its default.

base.py reads and writes them; blip2.py and bridgetower.py hold the settings of one family each, and a caption imports
its own alone.
"""
