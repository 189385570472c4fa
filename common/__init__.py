"""Facts that both implementations share: configuration, data, weights, the clock, results and tables.

NumPy and the standard library only, so that either implementation can be taken along with this package alone
(`table.py` and `progress.py`, which only the parent process imports, add tabulate and rich). What a framework
*does* is never written here: each implementation stays a reference for its own.
"""
