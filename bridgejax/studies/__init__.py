"""Studies: which runs they have, carrying them out, their results on disk, tuning."""
