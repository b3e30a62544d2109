"""Depth against width of a self-attention network: Levine, Wies, Sharir, Bata, Shashua, NeurIPS 2020.

The network that they analyse, exactly; its separation rank and the bounds on it; the empirical law; what a shape
costs to serve.
"""
