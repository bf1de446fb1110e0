"""Floor 4: the geometry of an alignment before, and of an update after: audit, forecast, overlap."""

from holdfast.geometry.audit import audit
from holdfast.geometry.conditions import Conditions, ConditionsAt
from holdfast.geometry.forecast import Forecast, Predictor, ProbeForecast, forecast_after_probe
from holdfast.geometry.onset import Onset, fit_onset, log_slope, time_to_threshold
from holdfast.geometry.overlap import Overlap, overlap
from holdfast.geometry.result import Audit
from holdfast.geometry.spectrum import Spectrum, Subspace

__all__ = [
    "Audit",
    "Conditions",
    "ConditionsAt",
    "Forecast",
    "Onset",
    "Overlap",
    "Predictor",
    "ProbeForecast",
    "Spectrum",
    "Subspace",
    "audit",
    "fit_onset",
    "forecast_after_probe",
    "log_slope",
    "overlap",
    "time_to_threshold",
]
