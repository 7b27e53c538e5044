"""The library behind the commands: whatever a command does, a program does with one of these functions."""

from cosphere.experiment.matching import MatchedRuns as MatchedRuns
from cosphere.experiment.matching import group_runs as group_runs
from cosphere.experiment.matching import read_arms as read_arms
