"""The tolerances that tests alone need, each with its reason; those of the proof stand in common/proof/bounds.py.

None of them decides a verdict, so none belongs to the code whose digest says whether a row must be run again.
"""

# Parity. Model.fit and our own loop call the same kernels in the same order.
FIT_AGAINST_CUSTOM_LOOP = 0.0

# Two replicas against one in float32: another order of summing, which training amplifies. Measured: 2e-6.
REPLICAS_UPDATE = 1e-5

# Rulers. What a test allocates, as memory's reading sees it: whole pages, beside an interpreter that allocates as well.
KNOWN_ALLOCATION = 0.1

# What the memory model foretells, against what rows took: it leaves out the workspaces of libraries and all that is
# small; 1.03 at most in results/h100.
FOOTPRINT = 1.04
