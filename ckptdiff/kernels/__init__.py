"""The arithmetic: files mapped into memory, bits compared, differences measured. No torch.

Import these modules inside job functions only: all but `stats` import numpy.
"""

import os

# Every dot product here is too short for BLAS to share out, so its threads would only be started
# and wait. The variable is read once, when numpy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
