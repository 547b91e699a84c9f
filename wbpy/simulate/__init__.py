"""Frames with known truth: scenes, sensors and whole nights of files, for tests and for the sample data.

Formulas here are of its own making; nothing is shared with the kernels, so that an error in one shows against the
other.
"""

from wbpy.simulate.scene import CHANNELS, Psf, Scene, apply_transform, field_transform, make_scene, render
from wbpy.simulate.sensor import Optics, Sensor
from wbpy.simulate.session import FAULTS, FOLDERS, LightTruth, SessionSpec, Truth, write_session

__all__ = [
    "CHANNELS",
    "FAULTS",
    "FOLDERS",
    "LightTruth",
    "Optics",
    "Psf",
    "Scene",
    "Sensor",
    "SessionSpec",
    "Truth",
    "apply_transform",
    "field_transform",
    "make_scene",
    "render",
    "write_session",
]
