"""Length predictors: from a request to a survival curve."""

from presize.predict import attention, encoder, linear  # noqa: F401  they register their kinds
from presize.predict.base import PREDICTORS, Predictor, Query
from presize.predict.kaplan_meier import KaplanMeier
from presize.predict.known import MaxTokens, Oracle

__all__ = ["PREDICTORS", "KaplanMeier", "MaxTokens", "Oracle", "Predictor", "Query"]
