"""Studies: questions about training methods, asked as data and answered with intervals and a verdict."""

from cosphere.studies.budget import parse_duration as parse_duration
from cosphere.studies.definition import Arm as Arm
from cosphere.studies.definition import Comparison as Comparison
from cosphere.studies.definition import Study as Study
from cosphere.studies.engine import StudyListener as StudyListener
from cosphere.studies.engine import run as run
from cosphere.studies.folder import StudyFolder as StudyFolder
from cosphere.studies.reading import read_study as read_study
from cosphere.studies.reading import shipped_studies as shipped_studies
from cosphere.studies.reading import study_of as study_of
from cosphere.studies.results import StudyResult as StudyResult
from cosphere.studies.verdicts import Verdict as Verdict
