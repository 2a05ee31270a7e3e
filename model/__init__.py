"""Recipes: what we run. Each module assembles parts of `recsys` into an experiment of the specifications.

Run one from a checkout as `python -m model.<recipe>`. No `nn.Module`, loss or dataset is defined here.
"""
