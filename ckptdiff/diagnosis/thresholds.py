"""The thresholds of the diagnosis, each with its source or measurement.

"Measured" gives the values on either side of a threshold over the 208 faults that
tests/diagnosis/test_diagnose.py plants in small random models. A cosine is that of two contents as
flat vectors, on a sample of the rows that differ; two random ones of n elements have a cosine of
about 0 ± 1/sqrt(n).
"""

from __future__ import annotations

# ── cosines: whose content is it ─────────────────────────────────────────────────────────────

# From here on, content is a changed version of the reference's. Measured: at most 0.04 for matrices
# that were never loaded; at least 0.65 with an adapter merged, 0.99 for another save.
MIN_VERSION_COSINE = 0.5
# Up to here, content has nothing of the reference's. Measured: at most 0.04 for matrices that were
# never loaded; 0.45 with a large adapter merged. Of few elements, chance alone gives more: up to so
# many times 1/sqrt(n).
MAX_UNLIKE_COSINE, MAX_CHANCE = 0.1, 3
# From here on, a matrix has its rows in place: no other origin is searched. Measured: at least 0.99
# for another save.
MIN_UNMOVED_COSINE = 0.98
# From here on, content is that of another shard although its values changed in no simple way.
# Measured: 1.0 for the right origin, at most 0.51 for any other.
MIN_MOVED_COSINE = 0.9
# By so much the cosine with another shard must exceed that with the expected content. Measured:
# 0.96 or more for the right origin.
MIN_MOVED_MARGIN = 0.2

# ── fractions of rows ────────────────────────────────────────────────────────────────────────

# Fraction of a shard's rows that differ when all of its content was moved.
MIN_MOVED_ROWS = 0.9
# Fraction of the rows looked up that lie where a layout puts them. Measured: 1.0 for the right
# layout, at most 0.88 for any other.
MIN_AGREEING_ROWS = 0.9
# Number of rows that must be found again before a layout is tried on them.
MIN_LOCATED_ROWS = 4
# Fraction of a tensor's rows that are rows of the reference when heads were replicated.
MIN_REPEATED_ROWS = 0.99

# ── fractions of a vocabulary's rows ─────────────────────────────────────────────────────────

# Fraction that must be rows of one reference tensor, for it to be the origin. Also the fraction
# that must be right in front of the first lost row, for a truncated vocabulary.
MIN_KNOWN_ROWS = 0.3
# Fraction of the wrong rows that must lie elsewhere, for rows to have been moved and not lost.
MIN_DISPLACED_ROWS = 0.3
# Fraction of the displaced rows that must be so by one step, for a shift.
MIN_ONE_STEP_ROWS = 0.8
# Fraction at the beginning that a shift may leave in place: the special tokens.
MAX_UNSHIFTED_ROWS = 0.1
# Fraction that must be lost from the first lost row on, for a truncated vocabulary.
MIN_TRUNCATED_ROWS = 0.9

# ── values ───────────────────────────────────────────────────────────────────────────────────

# Fraction of a rank's shards that must differ, for its whole file to be of another save. Norms and
# biases may round to the same values in two saves.
MIN_TOUCHED_SHARDS = 0.6
# |actual - expected| / |expected| below which the change may be training. Measured: 0.02 to 0.11
# for another save, 0.25 or more for a merged adapter alone.
MAX_TRAINED_CHANGE = 0.3
# Relative difference of two factors that count as one.
MAX_FACTOR_DIFFERENCE = 0.02
# Number of different factors from which they are block scales and not each a fault of its own.
MIN_BLOCK_FACTORS = 3
# Confidence in a stale tensor: another fault may have changed values in the same way.
STALE_CONFIDENCE = 0.8

# ── how much is looked at ────────────────────────────────────────────────────────────────────

# Rows of a matrix, or elements of a vector, on which a layout is tried before it is made whole.
PROBE_ROWS, PROBE_ELEMENTS = 4, 16
# Rows that are looked up by direction, of all ranks of a tensor together.
MAX_LOOKUP_ROWS = 96
# Rows of a vocabulary that are looked up by direction.
MAX_VOCABULARY_LOOKUP_ROWS = 64
# Rows and columns of a tensor by which the rank of its difference is taken. They show an adapter of
# rank 64, and of 100 at the most.
MAX_RANK_ROWS, MAX_RANK_COLUMNS = 256, 512
# First rows of a matrix that are measured where none is known to differ.
MAX_RESIDUAL_ROWS = 48
# Moved rows, ranks, layers or experts in the picture of a finding.
MAX_SHOWN_MOVES = 64
