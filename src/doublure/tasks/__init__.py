"""What is it for, and how is it scored? The hand-written tuple of tasks."""

from doublure.engine.task import Task
from doublure.tasks.classification.task import ClassificationTask
from doublure.tasks.segmentation.task import SegmentationTask
from doublure.tasks.translation.task import TranslationTask

# The first one is meant where neither a network nor data tell which.
TASKS: tuple[Task, ...] = (ClassificationTask(), TranslationTask(), SegmentationTask())
