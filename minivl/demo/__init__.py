"""The embedded tiny BLIP-2, and the toy world of coloured shapes that it was trained in."""
