"""How well scores agree with people: the statistics that the field reports.

All functions take NumPy arrays `(N,)` and work in float64 on the host. A metric whose
scores are all equal orders nothing: its correlation with opinions that differ is 0.
Where there is nothing to agree with, no number is given but `AgreementError` raised:
opinions that are all equal, and so few values that any metric would agree (a
correlation of two is -1 or 1, a curve passes through as many points as it has
parameters). NaN, inf and unequal lengths raise it, too.

Correlations keep their sign. A distance (larger is worse) falls as a mean opinion score
rises; `orient` turns opinions so that agreement is positive, by the directions that the
metric and the dataset declare.
"""

from spips_jax.agreement.bootstrap import (
    Interval,
    bootstrap,
    bootstrap_difference,
    bootstrap_draws,
    difference,
    interval,
)
from spips_jax.agreement.fits import Logistic, fit_logistic, fit_preference
from spips_jax.agreement.statistics import (
    OPINIONS,
    AgreementError,
    Opinion,
    jnd_map,
    krcc,
    orient,
    outlier_ratio,
    plcc,
    rmse,
    srcc,
    two_afc,
    two_afc_human,
)
from spips_jax.agreement.within import Within, spread_ratio, within_references

__all__ = [
    "OPINIONS",
    "AgreementError",
    "Interval",
    "Logistic",
    "Opinion",
    "Within",
    "bootstrap",
    "bootstrap_difference",
    "bootstrap_draws",
    "difference",
    "fit_logistic",
    "fit_preference",
    "interval",
    "jnd_map",
    "krcc",
    "orient",
    "outlier_ratio",
    "plcc",
    "rmse",
    "spread_ratio",
    "srcc",
    "two_afc",
    "two_afc_human",
    "within_references",
]
