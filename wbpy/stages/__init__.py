"""The stages in the order in which pixels meet them."""

from wbpy.stages.approve import APPROVE
from wbpy.stages.base import Stage
from wbpy.stages.calibrate import CALIBRATE
from wbpy.stages.cosmetic import COSMETIC
from wbpy.stages.crop import CROP
from wbpy.stages.debayer import DEBAYER
from wbpy.stages.drizzle import DRIZZLE
from wbpy.stages.framing import FRAMING
from wbpy.stages.integrate import INTEGRATE
from wbpy.stages.linedefects import LINEDEFECTS
from wbpy.stages.masters import MASTERS
from wbpy.stages.measure import MEASURE
from wbpy.stages.normalize import NORMALIZE
from wbpy.stages.photometry import PHOTOMETRY
from wbpy.stages.reference import REFERENCE
from wbpy.stages.register import REGISTER
from wbpy.stages.rgb import RGB
from wbpy.stages.weigh import WEIGH

STAGES: tuple[Stage, ...] = (
    MASTERS,
    CALIBRATE,
    LINEDEFECTS,
    COSMETIC,
    MEASURE,
    APPROVE,
    REFERENCE,
    REGISTER,
    FRAMING,
    NORMALIZE,
    WEIGH,
    DEBAYER,
    INTEGRATE,
    DRIZZLE,
    PHOTOMETRY,
    CROP,
    RGB,
)
"""Every stage; a plan's steps follow this order."""
