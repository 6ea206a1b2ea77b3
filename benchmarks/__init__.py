"""What bridgejax costs and reaches, beside PyTorch where that has a counterpart; `python -m benchmarks list` names each."""
