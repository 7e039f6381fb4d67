"""Settings of how a project learns: when it is retrained, how, what is promoted, and which task comes next."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings


class LearningSettings(BaseSettings):
    """Retraining, the gate, and active learning."""

    retrain_threshold: int = Field(100, ge=0)
    """Tasks whose annotations changed since the last full retrain's snapshot that queue one. 0: none ever do."""
    adapt_threshold: int = Field(10, ge=0)
    """Tasks whose annotations changed since the last snapshot that queue a quick adaptation: the head alone is trained,
    from weights or from the served version. 0: never."""
    adapt_minutes: float = Field(1.0, gt=0)
    """Wall-clock budget of a quick adaptation, in minutes, without its evaluation."""
    reconcile_s: float = Field(300.0, gt=0)
    """How often Label Studio is asked for changes that no webhook told of, in seconds."""
    val_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the labelled tasks that is held out for validation."""
    split_by: str = ""
    """Field of a task's data, such as drive, patient or meta.video: tasks with the same value there are on one side of
    the split, trained on or held out."""
    twin_similarity: float = Field(0.94, gt=0, le=1)
    """Images whose outlines are at least so similar are near duplicates, and on one side of the split. 1: only those
    with the same pixels."""
    min_val_tasks: int = Field(10, ge=1)
    """Below this many held-out tasks a version's metrics carry a warning."""
    promote_tolerance: float = Field(0.01, ge=0, le=1)
    """Versions whose mIoU differs by no more than this are equals. A candidate is promoted if it gains more, and is
    ahead of the served version in 80 % of the bootstrap's resamples; one with new labels is promoted as an equal, too.
    On a single held-out task it has to gain 0.05."""
    promote_class_limit: float = Field(0.15, ge=0, le=1)
    """A candidate that loses more IoU than this of a class is not promoted, where the 95 % interval of the class's loss
    says that it is no accident."""
    train_epochs: int = Field(20, ge=1)
    """Passes over the training tasks; small sets get more, so that there are at least train_min_steps steps."""
    train_min_steps: int = Field(200, ge=1)
    """Least number of optimizer steps of a training run."""
    train_minutes: float = Field(0.0, ge=0)
    """Wall-clock budget of a training run, in minutes; 0: none."""
    train_batch_size: int = Field(4, ge=1)
    """Images in a training step, at least 2: batch normalisation needs more than one."""
    predict_seconds: float = Field(0.4, gt=0)
    """Longest time, in seconds, that one pass of the network over an image may take on the machine that trains: it
    limits the input size that a training chooses. An exported int8 network takes about a third of it on a CPU."""
    consistency_images: int = Field(0, ge=0)
    """Images of tasks without annotations that a full training learns from besides, by consistency: where the network is
    sure of what it sees there, it learns to say the same of an altered view. 0: none. See docs/training.md for its cost."""
    train_lr: float = Field(5e-4, gt=0)
    """Highest learning rate of a training run: AdamW's, and Muon's for the convolutions of networks that began with random
    weights. A network that begins with random weights has twice as much, a backbone that began with published weights a
    tenth."""
    train_seed: int = Field(0, ge=0)
    """Seed of the training run."""
    train_patience: int = Field(0, ge=0)
    """A training run goes over to its end (a falling learning rate) once the held-out mIoU has not risen for so many of
    its evaluations, which are then 20; 0: it goes its whole length."""
    train_precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """What training steps compute in; auto: bfloat16 where the GPU or CPU multiplies in it, else float32."""
    train_compile: Literal["auto", "on", "off"] = "auto"
    """Whether training uses torch.compile; auto: on a GPU, in runs that are long enough to repay it."""
    guided_steps: int = Field(600, ge=0)
    """Steps in which a full training on at least 8 tasks, with 2 held out, teaches a guided head to follow clicks afterwards:
    two to four minutes of 2 cores. The version has the head only if it is better on held-out tasks. 0: none is trained."""
    tensorboard_dir: str = ""
    """Folder in which trainings on this machine write their curves for TensorBoard (extra `tensorboard`). Empty: none.
    """
    job_timeout_s: int = Field(24 * 3600, ge=60)
    """A retrain that takes longer than this is stopped, in seconds."""
    acquisition: Literal["confidence", "margin", "entropy", "entropy+diversity"] = "entropy+diversity"
    """Acquisition function: what a prediction's score is, and so which task uncertainty sampling serves first.
    confidence of the winning class, margin to the second, or entropy; entropy+diversity puts the least sure tasks in an
    order, after a promotion, in which each is unlike those before it."""
    acquisition_batch: int = Field(100, ge=1, le=900)
    """Tasks that entropy+diversity puts in order after a promotion."""
    ordered_view: bool = False
    """Keep a tab "Most uncertain first" of the tasks to label in the project's Data Manager."""
    blind_share: float = Field(0.0, ge=0, le=0.5)
    """Share of the tasks whose pre-label stays hidden, chosen at random: they show how long labelling takes without one,
    and judge versions without the champion's help, so that they are always held out. 0.05 is a good start. 0: none."""
    auto_accept: bool = False
    """Turn pre-labels into annotations that nobody looked at, where blind labels prove that few of them are wrong
    (docs/does-it-help.md has the proof, and what it costs). At least 5 % of the tasks are blind then."""
    accept_tau: float = Field(0.05, ge=0, lt=1)
    """An accepted pre-label is wrong where more than this share of its task's pixels would have been corrected, or where
    it misses a class."""
    accept_risk: float = Field(0.05, gt=0, lt=1)
    """The largest share of the accepted pre-labels that may be wrong."""
    accept_confidence: float = Field(0.95, ge=0.5, lt=1)
    """How sure it has to be that no larger share is wrong, before a version's pre-labels are accepted."""
    accept_train: bool = False
    """Train on accepted pre-labels too. They are never held out."""
    suspects: Literal["off", "held-out", "all"] = "all"
    """Labels that disagree with a network that never saw them are looked for after a full training: on held-out tasks,
    which the new version judges; with all, on training tasks too, by heads that are trained without them, in at most a
    tenth of the training's time. off: none are looked for."""
    suspect_view: bool = True
    """Show suspected labels in Label Studio: a tab "Suspected labels" of the project's Data Manager, and, on each of its
    tasks, a prediction of the model version "suspected labels". segloop never edits an annotation."""
    prelabel_batch: int = Field(8, ge=1)
    """Tasks predicted and posted at a time when a promotion refreshes predictions."""

    @field_validator("train_batch_size")
    @classmethod
    def _enough_to_normalise(cls, value: int) -> int:
        if value < 2:
            raise ValueError("must be at least 2, because batch normalisation needs more than one image in a step")
        return value
