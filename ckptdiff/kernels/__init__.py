"""The numpy code: map files into memory, compare bits, measure differences. No torch.

Import these modules inside job functions only: all but `stats` and `views` import numpy.
"""

import os

# Every dot product here is too short for BLAS to split over threads, which would start and wait.
# The variable is read once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
