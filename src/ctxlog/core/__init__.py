"""The rules: arbitration, evolve, fold and digests. Pure: no I/O, no clock, no randomness, no environment."""
