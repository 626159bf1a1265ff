"""Measure reading side by side with the tools people use today: same clips, same answers, CPU seconds, one run."""

from trichord.shards.bench.run import CONTENDERS, Row, bench

__all__ = ["CONTENDERS", "Row", "bench"]
