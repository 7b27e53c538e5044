"""Drawn stamps: a data set to try things on, made of random numbers."""

from cosphere.stamps.drawing import draw_stamps as draw_stamps
