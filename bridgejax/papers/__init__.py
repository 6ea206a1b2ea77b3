"""The experiments of papers as configs, and what they cost."""
