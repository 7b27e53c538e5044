"""Synthetic rubber stamps: a generated data set for the demo, examples and benchmarks."""

from cosphere.stamps.drawing import draw_stamps as draw_stamps
