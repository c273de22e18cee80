"""What everything else speaks about: ids, positions, points, events, outcomes and the state of a context.

No I/O, no clock, no randomness: times and ids come in as values.
"""
