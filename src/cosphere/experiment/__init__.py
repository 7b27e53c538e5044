"""The library behind the commands: whatever a command does, a program does with one of these functions. None prints."""

from cosphere.experiment.calibrating import CalibratedRun as CalibratedRun
from cosphere.experiment.calibrating import calibrate_run as calibrate_run
from cosphere.experiment.comparing import ComparedRuns as ComparedRuns
from cosphere.experiment.comparing import compare_runs as compare_runs
from cosphere.experiment.embedding import embed_images as embed_images
from cosphere.experiment.evaluation import Evaluation as Evaluation
from cosphere.experiment.evaluation import evaluate_run as evaluate_run
from cosphere.experiment.images import choose_images as choose_images
from cosphere.experiment.images import take_split as take_split
from cosphere.experiment.listener import Listener as Listener
from cosphere.experiment.matching import MatchedRuns as MatchedRuns
from cosphere.experiment.matching import group_runs as group_runs
from cosphere.experiment.matching import read_arms as read_arms
from cosphere.experiment.models import choose_device as choose_device
from cosphere.experiment.models import load_model as load_model
from cosphere.experiment.recipes import Recipe as Recipe
from cosphere.experiment.recipes import find_recipe as find_recipe
from cosphere.experiment.recipes import published_recipes as published_recipes
from cosphere.experiment.reproducing import Reproduction as Reproduction
from cosphere.experiment.reproducing import reproduce as reproduce
from cosphere.experiment.searching import Searched as Searched
from cosphere.experiment.searching import search_images as search_images
from cosphere.experiment.training import resume_run as resume_run
from cosphere.experiment.training import run as run
from cosphere.experiment.training import validation_scores as validation_scores
