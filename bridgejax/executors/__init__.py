"""Where shards and runs are carried out: here, in processes of this machine, on Ray or on SLURM. No scheduler of our own.

An executor maps units of work to an engine that exists. Queues, placement, lost machines and quotas are the engine's; what
is added here is how often a unit is tried, and one sentence where something is wrong.
"""

from __future__ import annotations

from bridgejax.executors.hand_out import executor_of
from bridgejax.executors.unit_calls import UnitJob, UnitOutcome, make_unit, run_one, run_shard, unit_states

__all__ = ["UnitJob", "UnitOutcome", "executor_of", "make_unit", "run_one", "run_shard", "unit_states"]
