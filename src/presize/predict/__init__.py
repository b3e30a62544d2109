"""Length predictors: from a request to a survival curve."""

from presize.predict import attention, encoder, hidden, linear  # noqa: F401  they register their kinds
from presize.predict.base import PREDICTORS, Predictor, Query
from presize.predict.choose import choose
from presize.predict.ewma import Ewma
from presize.predict.kaplan_meier import KaplanMeier
from presize.predict.known import MaxTokens, Oracle

__all__ = ["PREDICTORS", "Ewma", "KaplanMeier", "MaxTokens", "Oracle", "Predictor", "Query", "choose"]
