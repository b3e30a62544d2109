"""A learned predictor that goes on learning from what is served: `--learn-online`."""

from presize.predict.online.predictor import Online

__all__ = ["Online"]
