"""Reasons for which a test is skipped, that the end of a run tells with a way out."""

NO_NEWEST = "needs a newer megatron-core, unpacked"
NO_BRIDGE = "needs megatron-bridge, installed into a folder of its own"
