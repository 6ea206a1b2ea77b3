"""The parts of `benchmarks.accelerator` and what runs them; each part is a module with `rows(context)`."""
