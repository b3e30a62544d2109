"""How the learned predictors are trained: needs torch or scikit-learn, which using a predictor does not."""
