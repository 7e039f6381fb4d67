"""The retrain, step by step: snapshot, train, compare, export, register, promote, announce."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Unpack

from segloop.dataset import MANIFEST, Manifest, ProjectSplits, exclude_trained, load_manifest, write_manifest
from segloop.errors import (
    ChampionMoved,
    DiskFull,
    EngineError,
    LabelStudioError,
    SettingsError,
    TrainingError,
    TrainingStopped,
)
from segloop.formats import WEIGHTS_FILE
from segloop.policy import Recipe, should_promote
from segloop.progress import Progress
from segloop.settings import Settings
from segloop.telemetry.notes import Stage
from segloop.trainers.base import Run
from segloop.versions import EngineReport, PromotionDecision
from worker.jobs.bias import held_out_bias
from worker.jobs.context import JobContext, set_backend_title
from worker.jobs.ending import Ending
from worker.jobs.feedback import Feedback
from worker.jobs.guided import inherited_head
from worker.jobs.mirrors import Mark, SnapshotState, note_snapshot
from worker.jobs.run_state import (
    Beginning,
    Candidate,
    RetrainResult,
    Verdict,
    generation_of,
    read_state,
    run_folder,
    write_state,
)
from worker.jobs.snapshot import freeze_annotations, hold_out_nothing_of
from worker.jobs.suspects import look_for_suspects, point_out_suspects
from worker.jobs.train import Training, hyperparameters_of
from worker.jobs.under_way import UnderWay, fetch_snapshot, note_under_way, read_under_way

logger = logging.getLogger(__name__)


def run_retrain(context: JobContext, project: str, job_id: str) -> RetrainResult:
    """Snapshot, train, compare with the champion, promote if better, set the title in Label Studio.

    Everything done is on disk under the job's id or in the registry, so that a second call with the same id
    does only what the first did not get to. Afterwards one more retrain is queued, if policy wants it. A quick
    adaptation for which there is no backbone (its weights cannot be had) becomes a full training.

    Raises:
        Parked: the training goes on elsewhere; this is to be called again.
        TrainingError, NothingToTrain, LabelStudioError: it cannot be done, and trying again would not help.
        DiskError: this machine's disk fails.
        DiskFull, ImageUnavailable, LabelStudioUnreachable, QueueUnavailable, RegistryError, TrainerUnavailable: try again later.
    """
    if context.jobs.has_ended(project, job_id):
        return ended_result(context, project, job_id)
    retrain = Retrain.begin(context, project, job_id)
    return retrain.finish(retrain.work)


def ended_result(context: JobContext, project: str, job_id: str) -> RetrainResult:
    """What a retrain returned that has ended, as far as its progress tells. The next may be under way, and its folder gone.

    Raises:
        TrainingError: it failed.
    """
    progress = context.jobs.job_status(job_id)["progress"] or {}
    reason = str(progress.get("message", ""))
    if progress.get("phase") in ("failed", "stopped"):
        raise TrainingError(reason)
    known = read_state(Retrain(context, project, job_id, context.settings).folder / "run.json", Beginning)
    return {
        "version": progress.get("version"),
        "promoted": progress.get("promoted", False),
        "recipe": "full" if known is None else known.recipe,
        "reason": reason,
    }


@dataclass(frozen=True)
class Retrain:
    """A project's live retrain. Each step may be killed anywhere and called again, and ends the same.

    Attributes:
        settings: the project's own.
        parent: the version that the training begins with; None: it begins with the settings' weights.
    """

    context: JobContext
    project: str
    job_id: str
    settings: Settings
    recipe: Recipe = "full"
    parent: str | None = None

    @classmethod
    def begin(cls, context: JobContext, project: str, job_id: str) -> Retrain:
        """The retrain of a job: by the recipe that is asked for, from the champion, when this is first called."""
        retrain = cls(context, project, job_id, context.settings_of(project))
        path = retrain.folder / "run.json"
        known = read_state(path, Beginning)
        if known is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            if (elsewhere := read_under_way(context, project, job_id)) is not None:
                known = elsewhere.beginning
                write_state(path, known)
        if known is None:
            champion = context.registry.champion(project)
            recipe = context.jobs.recipe(project)
            if recipe == "quick" and champion is None and not retrain._has_weights():
                logger.warning(
                    "project %s: a quick adaptation has nothing to begin with, as the weights %s cannot be had and no "
                    "version is served: job %s is a full training of the same tasks",
                    *(project, retrain.settings.weights, job_id),
                )
                context.jobs.make_full(project)
                recipe = "full"
            known = Beginning(recipe, None if champion is None else champion.version)
            write_state(path, known)
        return replace(retrain, recipe=known.recipe, parent=known.parent)

    def _has_weights(self) -> bool:
        try:
            return self.context.has_weights(self.settings)
        except SettingsError:
            return True  # the training tells what is wrong with them

    @property
    def folder(self) -> Path:
        """Its folder, for as long as it is the project's latest."""
        return run_folder(self.settings, self.project, self.job_id)

    @property
    def snapshot_folder(self) -> Path:
        """The folder of its snapshot, which is there when it is whole."""
        return self.folder / "snapshot"

    def work(self) -> RetrainResult:
        """All of a retrain whose training begins here."""
        # before it began, or while it waited for something; a training that may have begun is stopped where it runs
        if self.context.jobs.stop_asked(self.project, self.job_id) and not self._has_begun():
            self.context.jobs.changes.take(self.project, self.recipe)
            raise TrainingStopped
        manifest = self.snapshot()
        hyperparameters = hyperparameters_of(self.settings, self.recipe)
        bundle = self.train(hyperparameters)
        shutil.copyfile(self.snapshot_folder / MANIFEST, bundle / MANIFEST)
        return self.conclude(Candidate(bundle, manifest, hyperparameters))

    def conclude(self, candidate: Candidate) -> RetrainResult:
        """The steps after the training."""
        with self._late_stage("evaluating", "Comparing with the served version."):
            verdict = self.compare(candidate)
        if self.recipe == "full" and self.settings.suspects != "off":
            with self._late_stage("evaluating", "Looking for suspected labels."):
                look_for_suspects(self.context, candidate.bundle, self.snapshot_folder, self.settings)
        with self._late_stage("exporting", "Preparing the version for serving."):
            engines = self.export(candidate)
        with self._late_stage("promoting", verdict.decision.reason):
            verdict = self.register(candidate, verdict, engines)
            verdict, promoted = self.promote(candidate, verdict)
        version, reason = verdict.version, verdict.decision.reason
        logger.info("project %s: job %s made %s: %s", self.project, self.job_id, version, reason)
        if promoted:
            self.announce(version)
        point_out_suspects(self.context, self.project)
        return {
            "version": version,
            "promoted": promoted,
            "recipe": self.recipe,
            "seconds": candidate.info().recipe.seconds,
            "reason": reason,
            "metrics": verdict.metrics.model_dump(),
            "champion_metrics": verdict.champion_metrics.model_dump() if verdict.champion_metrics else None,
            "tasks": len(candidate.manifest.items),
            "skipped": len(candidate.manifest.skipped),
        }

    # -- the steps

    def snapshot(self, learnt: Manifest | None = None) -> Manifest:
        """The run's snapshot: the one that is there, or a new one. The project's earlier runs leave the disk.

        Args:
            learnt: the training set of a candidate that was trained elsewhere. Tasks that it was trained on are not held
                out any more, and changes count from when it was taken.

        Raises:
            TrainingError: the candidate was trained on every task that segloop holds out.
            NothingToTrain: too few tasks are left.
        """
        with self._stage("snapshot", "Collecting annotations and images."):
            if self.snapshot_folder.is_dir() or (learnt is None and self._fetch_snapshot()):
                manifest = load_manifest(self.snapshot_folder)
            else:
                manifest = self._freeze(learnt)
        for other in self.folder.parent.iterdir():
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)
        return manifest

    def _has_begun(self) -> bool:
        is_known = self.snapshot_folder.is_dir()
        return is_known or read_under_way(self.context, self.project, self.job_id) is not None

    def _fetch_snapshot(self) -> bool:
        known = read_under_way(self.context, self.project, self.job_id)
        return known is not None and fetch_snapshot(self.context, known, self.snapshot_folder)

    def _freeze(self, learnt: Manifest | None) -> Manifest:
        partial, registry, jobs = self.folder / "snapshot.partial", self.context.registry, self.context.jobs
        jobs.changes.take(self.project, self.recipe)
        if learnt is not None:
            hold_out_nothing_of(learnt, ProjectSplits(registry, self.project))
        manifest, mark = freeze_annotations(
            self.context, self.project, self.settings, partial, lambda progress: jobs.report(self.job_id, progress)
        )
        if learnt is not None:
            manifest, mark = exclude_trained(manifest, learnt), Mark(learnt.created_at)
            write_manifest(partial, manifest)
        state = SnapshotState(mark.since, mark.revision, job=self.job_id)
        if self.recipe == "quick":
            known = SnapshotState.read(registry, self.project)
            quick = replace(known, quick_since=mark.since, quick_revision=mark.revision, job=self.job_id)
            state = replace(quick, failed_since="", failed_revision="")
        note_snapshot(registry, self.project, self.folder, state)
        if learnt is None:
            note_under_way(
                self.context, self.project, UnderWay(self.job_id, Beginning(self.recipe, self.parent), manifest.hash)
            )
        partial.replace(self.snapshot_folder)
        return manifest

    def train(self, hyperparameters: Mapping[str, str]) -> Path:
        """The bundle folder of the training, once it has ended.

        Raises:
            Parked: the training goes on elsewhere; this is to be called again.
            TrainingError: it failed, was lost too often, took too long, or somebody asked for its stop.
        """
        registry = self.context.registry
        parent = None if self.parent is None else registry.bundle(self.project, self.parent, [WEIGHTS_FILE])
        run = Run(self.job_id, self.folder, self.snapshot_folder, parent, hyperparameters)
        with Stage("training"):
            return Training(self.context, self.project, run, self.recipe, self.settings.job_timeout_s).finish()

    def compare(self, candidate: Candidate, version: str = "") -> Verdict:
        """Candidate and champion on the same tasks, and the decision: the one that is known, while the champion stays.

        Args:
            version: the candidate's, once it is registered.
        """
        registry, settings = self.context.registry, self.settings
        champion = registry.champion(self.project)
        known = read_state(self.folder / "verdict.json", Verdict)
        if known is not None and known.holds(champion):
            return known
        theirs = None if champion is None else registry.bundle(self.project, champion.version, [WEIGHTS_FILE])
        compared = self.context.compare(candidate.bundle, theirs, self.snapshot_folder, settings)
        evidence = compared.evidence
        decision = should_promote(
            compared.metrics,
            compared.champion_metrics,
            tolerance=settings.promote_tolerance,
            class_limit=settings.promote_class_limit,
            evidence=evidence,
        )
        bias = None if champion is None else held_out_bias(self.context, self.project, champion.version, compared)
        decided = PromotionDecision(
            act=decision.act, reason=decision.reason, interval=evidence.interval, ahead=evidence.ahead, bias=bias
        )
        return self._keep(
            Verdict(generation_of(champion), compared.metrics, compared.champion_metrics, decided, version)
        )

    def export(self, candidate: Candidate) -> EngineReport:
        """The candidate's models for other engines, added to its bundle, and what version.json says of them.

        Also for a candidate that loses: it can be promoted by hand. One that cannot be exported is served by torch's
        weights as they are. A quick adaptation's int8 model is left out: to make and to judge it takes longer than the
        training did. It goes on with the guided head of the version that it began with, whose backbone it shares.
        """
        path, made = self.folder / "engines.json", self.folder / "engines"
        engines = read_state(path, EngineReport)
        if engines is not None:
            return engines
        shutil.rmtree(made, ignore_errors=True)
        judged_on = self.snapshot_folder if self.recipe == "full" else None
        try:
            engines = self.context.export(candidate.bundle, judged_on, made, self.settings)
        except EngineError as error:
            DiskFull.check(self.folder)  # then it may be made later
            logger.error("run %s: no models for other engines: %s", self.job_id, error)
            engines = EngineReport(error=str(error))
        else:
            for file in sorted(made.iterdir()):
                file.replace(candidate.bundle / file.name)
            if self.recipe == "quick" and self.parent is not None:
                guided = inherited_head(self.context.registry, self.project, self.parent, candidate.bundle)
                engines = engines.model_copy(update={"guided": guided})
        write_state(path, engines)
        return engines

    def register(self, candidate: Candidate, verdict: Verdict, engines: EngineReport) -> Verdict:
        """Put the candidate into the registry; the verdict with its version."""
        info = candidate.info()
        changes = {
            "parent": self.parent,
            "metrics": verdict.metrics,
            "champion_metrics": verdict.champion_metrics,
            "decision": verdict.decision,
            "engines": engines,
            # what `segloop reproduce` trains with again, with what the training chose
            "recipe": info.recipe.model_copy(
                update={"hyperparameters": {**candidate.hyperparameters, "input_size": str(info.input_size)}}
            ),
        }
        version = self.context.registry.add(self.project, candidate.bundle, info.model_copy(update=changes))
        return self._keep(replace(verdict, version=version))

    def promote(self, candidate: Candidate, verdict: Verdict) -> tuple[Verdict, bool]:
        """Make the candidate the champion, if the verdict says so; the verdict that decided, and whether it is served."""
        registry = self.context.registry
        while True:
            champion = registry.champion(self.project)
            if not verdict.holds(champion):
                # Somebody rolled back or promoted meanwhile: the candidate has to win against what is served now.
                verdict = self.compare(candidate, verdict.version)
                continue
            if verdict.made(champion) or not verdict.decision.act:
                return verdict, verdict.made(champion)
            reason = verdict.decision.reason
            # it verifies the candidate's files first, for which S3 may take minutes
            with contextlib.suppress(ChampionMoved):
                registry.promote(self.project, verdict.version, reason, instead_of=verdict.generation)
                return verdict, True

    def announce(self, version: str) -> None:
        """Title the backend in Label Studio with the version that is served now, and have it predict the tasks."""
        try:
            set_backend_title(self.context, self.project, version)
        except LabelStudioError as error:
            logger.warning("project %s: the title cannot be set now, the prelabel job does it: %s", self.project, error)
        self.context.jobs.enqueue_prelabel(self.project, version)

    # -- progress, and the end

    def report(self, **progress: Unpack[Progress]) -> None:
        """Publish how far it is."""
        self.context.jobs.report(self.job_id, progress)

    def finish(self, work: Callable[[], RetrainResult]) -> RetrainResult:
        """Do the work; at its end, good or bad, the project's next retrain is queued, if policy wants it.

        Raises:
            Those of `run_retrain`.
        """
        return Ending(self.context, self.project, self.job_id, self.settings, self.recipe).of(work)

    @contextmanager
    def _stage(self, phase: str, message: str) -> Iterator[None]:
        self.report(phase=phase, message=message)
        Feedback(self.context, self.project).tell({"phase": phase})
        with Stage(phase):
            yield

    @contextmanager
    def _late_stage(self, phase: str, message: str) -> Iterator[None]:
        """A stage after the training. What somebody stops is not served; a version that is registered stays."""
        verdict = read_state(self.folder / "verdict.json", Verdict)
        if not (verdict and verdict.version) and self.context.jobs.stop_asked(self.project, self.job_id):
            raise TrainingStopped
        with self._stage(phase, message):
            yield

    def _keep(self, verdict: Verdict) -> Verdict:
        write_state(self.folder / "verdict.json", verdict)
        return verdict
