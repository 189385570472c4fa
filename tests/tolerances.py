"""Every tolerance of the tests, each with its reason. u is the unit roundoff: 2**-24 in float32, 2**-53 in float64."""

U_FLOAT32 = 2.0**-24
U_FLOAT64 = 2.0**-53

# A dot product of n rounded terms errs by about sqrt(n) u of its size; 4 leaves room for other orders of summing.
DOT_PRODUCT_FACTOR = 4.0

# Float32 Adam against the formula in float64: Keras forms 1 - beta_2**t from a float32 beta_2**t, which alone puts the
# update 6.4e-6 low at t = 1; PyTorch's own error is 1.5e-6.
ADAM_UPDATE = 5e-5

# Loss curves of the two frameworks in float32 over a whole smoke run, rms of the difference over rms of the loss.
FLOAT32_LOSS_CURVE = 1e-4

# A fusing compiler sums in another order: as far apart as the two frameworks, which do so too.
COMPILED_LOSS_CURVE = 1e-4

# Model.fit and our own loop call the same kernels in the same order.
FIT_AGAINST_CUSTOM_LOOP = 0.0

# A ruler of memory that reads whole pages, beside an interpreter that allocates as well: a tenth of what was allocated.
KNOWN_ALLOCATION = 0.1
