"""Numeric fingerprints: what every part of the package computes in a few steps, as numbers that a refactoring must not change.

    digests/<group>.json   option -> case (a shape and a seed) -> moment (init, step 1, ...) -> numbers
    adapter.py             the only file that knows where the package keeps things; edit it when something moves
    cases.py               which numbers make up a fingerprint
    __main__.py            `python -m tests.fingerprints --bless vae` rewrites the named digests, `--check` compares them

Numbers are computed in float64 and kept with nine significant digits. They are compared with a relative tolerance, because
another processor rounds otherwise; whole numbers (splits, orders of examples) are compared exactly.
"""
