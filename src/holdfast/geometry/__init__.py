"""Floor 4: the geometry of an alignment before, and of an update after: audit, forecast, overlap."""

from holdfast.geometry.audit import audit
from holdfast.geometry.conditions import Conditions, ConditionsAt
from holdfast.geometry.forecast import EarlyForecast, Forecast, Predictor, forecast_after_short_run
from holdfast.geometry.landscape import Preservation, preservation, profiles, random_directions
from holdfast.geometry.onset import Onset, fit_onset, log_slope, time_to_threshold
from holdfast.geometry.overlap import Overlap, overlap
from holdfast.geometry.result import Audit
from holdfast.geometry.spectrum import Spectrum, Subspace

__all__ = [
    "Audit",
    "Conditions",
    "ConditionsAt",
    "EarlyForecast",
    "Forecast",
    "Onset",
    "Overlap",
    "Predictor",
    "Preservation",
    "Spectrum",
    "Subspace",
    "audit",
    "fit_onset",
    "forecast_after_short_run",
    "log_slope",
    "overlap",
    "preservation",
    "profiles",
    "random_directions",
    "time_to_threshold",
]
