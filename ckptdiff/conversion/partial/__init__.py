"""`OUT.partial`: where a conversion is written, what a killed one left, and how it becomes OUT."""
