"""The report of a workdir, a pure function of its files: statistics, tables, figures, page."""
