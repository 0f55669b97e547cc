"""Executors: who carries out many tasks side by side, on this machine or on a cluster."""

from obliviate.executors.executor import Executor, Job, check_source, executor_of

__all__ = ["Executor", "Job", "check_source", "executor_of"]
