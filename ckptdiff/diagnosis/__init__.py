"""The verb `diagnose`: find the known faults that explain the differences."""
