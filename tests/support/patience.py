"""How long tests wait for what must come."""

# Seconds of the wall clock, which says nothing on a busy machine: only what hangs takes this long.
# How quick something is, tests hold against the processor's clock.
PATIENCE = 600
