"""Exceptions of wbpy: what a caller can act on.

Bad data is a finding, not an exception; bad configuration raises before any pixel is read; everything else is
a bug and ends in a traceback.
"""


class WbpyError(Exception):
    """The base of all errors that wbpy raises on purpose."""


class ConfigError(WbpyError):
    """A configuration value, command-line option or preset is wrong; the message says where it came from."""


class RuleError(WbpyError):
    """A file under ``rules/`` is wrong; the message names the file, the key and what was expected."""


class PlanError(WbpyError):
    """A saved plan cannot be read, or its inputs changed since it was reviewed."""


class BusyError(WbpyError):
    """Another run is working in the output folder."""


class ReadError(WbpyError):
    """One input file cannot be read; the message names the file, what was found and what was expected."""


class ShapeError(WbpyError):
    """Two arrays that must have one shape have two; both are named."""


class Cancelled(WbpyError):
    """The user stopped the run."""
