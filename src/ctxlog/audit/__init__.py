"""Proof: that a log is what it was, and that a state came from it."""
