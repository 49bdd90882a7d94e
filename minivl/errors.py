"""Everything that can go wrong and is somebody's to fix: one line naming the thing, what was wanted, what was found.

All of them are `ValueError`s too, so code written for transformers that catches `ValueError` keeps working.
"""


class MinivlError(ValueError):
    """The kind that all of minivl's own errors share."""


class ConfigError(MinivlError):
    """A config.json, or a value in it, that no model can be built from."""


class WeightsError(MinivlError):
    """A checkpoint file that is missing, malformed, or does not fit its configuration."""


class ImageError(MinivlError):
    """A picture that cannot be read or has no meaning as a picture."""


class TokenizerError(MinivlError):
    """A tokenizer file that is missing or malformed, or text that it cannot take."""


class InputError(MinivlError):
    """An argument of a call that has no meaning: an unknown option, a wrong shape, a length below one."""


class Note(UserWarning):
    """Something that stops nothing and that whoever asked may want to know, in one line like an error's."""


class OpsError(MinivlError):
    """An ops record that does not exist, or is not available on this machine."""


class NumbersError(MinivlError):
    """NaN or an infinity where numbers were wanted; minivl.trace(check_finite=True) names the op."""
