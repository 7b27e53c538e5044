"""The library behind the commands: whatever a command does, a program does with one of these functions. None prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cosphere._lazy import lazily

if TYPE_CHECKING:
    from cosphere.experiment.auditing import Audit as Audit
    from cosphere.experiment.auditing import audit as audit
    from cosphere.experiment.calibrating import CalibratedRun as CalibratedRun
    from cosphere.experiment.calibrating import calibrate_run as calibrate_run
    from cosphere.experiment.comparing import ComparedRuns as ComparedRuns
    from cosphere.experiment.comparing import compare_runs as compare_runs
    from cosphere.experiment.embedding import embed_images as embed_images
    from cosphere.experiment.evaluation import Evaluation as Evaluation
    from cosphere.experiment.evaluation import evaluate_run as evaluate_run
    from cosphere.experiment.images import choose_images as choose_images
    from cosphere.experiment.images import take_split as take_split
    from cosphere.experiment.indexing import add_to_index as add_to_index
    from cosphere.experiment.indexing import build_index as build_index
    from cosphere.experiment.indexing import search_index as search_index
    from cosphere.experiment.listener import Listener as Listener
    from cosphere.experiment.matching import MatchedRuns as MatchedRuns
    from cosphere.experiment.matching import group_runs as group_runs
    from cosphere.experiment.matching import read_arms as read_arms
    from cosphere.experiment.migrating import migrate_index as migrate_index
    from cosphere.experiment.models import choose_device as choose_device
    from cosphere.experiment.models import load_model as load_model
    from cosphere.experiment.planning import Choice as Choice
    from cosphere.experiment.planning import Plan as Plan
    from cosphere.experiment.planning import plan as plan
    from cosphere.experiment.protocol_runs import ProtocolEvaluation as ProtocolEvaluation
    from cosphere.experiment.protocol_runs import evaluate_protocol as evaluate_protocol
    from cosphere.experiment.racing import Race as Race
    from cosphere.experiment.racing import race as race
    from cosphere.experiment.recipes import Recipe as Recipe
    from cosphere.experiment.recipes import find_recipe as find_recipe
    from cosphere.experiment.recipes import published_recipes as published_recipes
    from cosphere.experiment.reproducing import Reproduction as Reproduction
    from cosphere.experiment.reproducing import reproduce as reproduce
    from cosphere.experiment.searching import Searched as Searched
    from cosphere.experiment.searching import search_images as search_images
    from cosphere.experiment.training import prepare_features as prepare_features
    from cosphere.experiment.training import resume_run as resume_run
    from cosphere.experiment.training import run as run
    from cosphere.experiment.training import validation_scores as validation_scores
else:
    __getattr__ = lazily(
        __name__,
        {
            "Audit": "cosphere.experiment.auditing",
            "audit": "cosphere.experiment.auditing",
            "CalibratedRun": "cosphere.experiment.calibrating",
            "calibrate_run": "cosphere.experiment.calibrating",
            "ComparedRuns": "cosphere.experiment.comparing",
            "compare_runs": "cosphere.experiment.comparing",
            "embed_images": "cosphere.experiment.embedding",
            "Evaluation": "cosphere.experiment.evaluation",
            "evaluate_run": "cosphere.experiment.evaluation",
            "choose_images": "cosphere.experiment.images",
            "take_split": "cosphere.experiment.images",
            "add_to_index": "cosphere.experiment.indexing",
            "build_index": "cosphere.experiment.indexing",
            "migrate_index": "cosphere.experiment.migrating",
            "search_index": "cosphere.experiment.indexing",
            "Listener": "cosphere.experiment.listener",
            "MatchedRuns": "cosphere.experiment.matching",
            "group_runs": "cosphere.experiment.matching",
            "read_arms": "cosphere.experiment.matching",
            "choose_device": "cosphere.experiment.models",
            "load_model": "cosphere.experiment.models",
            "Choice": "cosphere.experiment.planning",
            "Plan": "cosphere.experiment.planning",
            "plan": "cosphere.experiment.planning",
            "ProtocolEvaluation": "cosphere.experiment.protocol_runs",
            "evaluate_protocol": "cosphere.experiment.protocol_runs",
            "Race": "cosphere.experiment.racing",
            "race": "cosphere.experiment.racing",
            "Recipe": "cosphere.experiment.recipes",
            "find_recipe": "cosphere.experiment.recipes",
            "published_recipes": "cosphere.experiment.recipes",
            "Reproduction": "cosphere.experiment.reproducing",
            "reproduce": "cosphere.experiment.reproducing",
            "Searched": "cosphere.experiment.searching",
            "search_images": "cosphere.experiment.searching",
            "prepare_features": "cosphere.experiment.training",
            "resume_run": "cosphere.experiment.training",
            "run": "cosphere.experiment.training",
            "validation_scores": "cosphere.experiment.training",
        },
    )

__all__ = [
    "Audit",
    "CalibratedRun",
    "Choice",
    "ComparedRuns",
    "Evaluation",
    "Listener",
    "MatchedRuns",
    "Plan",
    "ProtocolEvaluation",
    "Race",
    "Recipe",
    "Reproduction",
    "Searched",
    "add_to_index",
    "audit",
    "build_index",
    "calibrate_run",
    "choose_device",
    "choose_images",
    "compare_runs",
    "embed_images",
    "evaluate_protocol",
    "evaluate_run",
    "find_recipe",
    "group_runs",
    "load_model",
    "migrate_index",
    "plan",
    "prepare_features",
    "published_recipes",
    "race",
    "read_arms",
    "reproduce",
    "resume_run",
    "run",
    "search_images",
    "search_index",
    "take_split",
    "validation_scores",
]
