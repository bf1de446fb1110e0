"""Floor 4: the geometry of an alignment before, and of an update after: audit, forecast, conclusion, overlap."""

from holdfast.geometry.ahead import LookAhead, look_ahead
from holdfast.geometry.attribution import Attribution, SourceShare
from holdfast.geometry.audit import audit
from holdfast.geometry.calibration import Calibrated, Chance, ReferenceRun, calibrated
from holdfast.geometry.conditions import Conditions, ConditionsAt
from holdfast.geometry.forecast import EarlyForecast, Forecast, Predictor, forecast_after_short_run
from holdfast.geometry.landscape import Preservation, preservation, profiles, random_directions
from holdfast.geometry.merged import Intruders, intruders, merged_overlap, merged_update
from holdfast.geometry.onset import Onset, fit_onset, log_slope, time_to_threshold
from holdfast.geometry.overlap import Overlap, overlap
from holdfast.geometry.result import Audit
from holdfast.geometry.rotation import Rotation, leading_directions, rotation
from holdfast.geometry.specific import Specific
from holdfast.geometry.spectrum import Spectrum, Subspace
from holdfast.geometry.verdict import Conclusion, concluded

__all__ = [
    "Attribution",
    "Audit",
    "Calibrated",
    "Chance",
    "Conclusion",
    "Conditions",
    "ConditionsAt",
    "EarlyForecast",
    "Forecast",
    "Intruders",
    "LookAhead",
    "Onset",
    "Overlap",
    "Predictor",
    "Preservation",
    "ReferenceRun",
    "Rotation",
    "SourceShare",
    "Specific",
    "Spectrum",
    "Subspace",
    "audit",
    "calibrated",
    "concluded",
    "fit_onset",
    "forecast_after_short_run",
    "intruders",
    "leading_directions",
    "log_slope",
    "look_ahead",
    "merged_overlap",
    "merged_update",
    "overlap",
    "preservation",
    "profiles",
    "random_directions",
    "rotation",
    "time_to_threshold",
]
