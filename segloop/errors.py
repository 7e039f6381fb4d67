"""The error tree: everything segloop raises on purpose, and the HTTP status each one answers with."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from typing import Final

#: A disk with less space than this, in bytes, is full: no checkpoint fits.
_FULL_BYTES = 16 * 2**20
_FULL = (errno.ENOSPC, errno.EDQUOT)


class SegloopError(Exception):
    """Base of every error that segloop raises on purpose; its text is one sentence fit for a user."""

    http_status = 500


class BadRequest(SegloopError):
    """What the caller sent cannot be used; the text names the bad value and the fix."""

    http_status = 400


class LabelConfigError(BadRequest):
    """A label config is missing, is not XML, or has nothing to segment with."""


class UnknownProject(BadRequest):
    """A project that cannot be named from what was sent, or was never seen."""


class MaskError(BadRequest):
    """A mask, polygon or run-length code that is malformed or beyond its limits."""


class TooLarge(BadRequest):
    """A request with more in it than one request may have."""

    http_status = 413


class Unauthorized(SegloopError):
    """No credentials, or wrong ones."""

    http_status = 401


class SettingsError(SegloopError):
    """A setting has a value that cannot be used, or a needed one is missing."""


class WeightsError(SettingsError):
    """The weights that the settings name cannot be had or used: `problem` says why, and `fix` what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}: {fix}")
        self.problem = problem
        self.fix = fix


class WeightsUnavailable(WeightsError):
    """Published weights that cannot be fetched now; the same may work later."""


class ImageError(SegloopError):
    """An image could not be fetched or decoded."""


class ImageForbidden(ImageError):
    """An image address that the settings do not allow: a host, a folder, a scheme."""


class ImageUnavailable(ImageError):
    """An image that cannot be had now, and may be had later: its host is away, overloaded or too slow."""


class ImageMissing(ImageError):
    """An image that is not where its address says, or that its host does not give, until somebody puts that right."""


class ImageDenied(ImageError):
    """An image that the owner of the credentials can get: Label Studio or S3 does not accept those that segloop has."""


class ImageTooLarge(ImageError):
    """An image beyond the limit on bytes or on pixels."""


class LabelStudioError(SegloopError):
    """Label Studio cannot be reached, or refused a request."""


class LabelStudioNotFound(LabelStudioError):
    """Label Studio has nothing at that address, or the key does not see it."""


class LabelStudioUnreachable(LabelStudioError):
    """Label Studio cannot be reached now; the same request may work later."""


class RegistryError(SegloopError):
    """The store of versions is unreachable or holds something that cannot be trusted."""

    http_status = 503


class VersionNotFound(RegistryError):
    """A version that a project does not have."""

    http_status = 404


class ModelRemoved(RegistryError):
    """A version whose model was removed to free space."""

    http_status = 409


class ChampionMoved(RegistryError):
    """A promotion that was decided on against a champion which is not the one any more."""

    http_status = 409


class DiskError(SegloopError):
    """This machine's disk is full or fails."""

    @classmethod
    def of(cls, folder: Path, error: OSError | sqlite3.Error) -> DiskError:
        """What an error of the operating system or of SQLite means for what lies in a folder."""
        if isinstance(error, OSError):
            is_full = error.errno in _FULL
            reason = os.strerror(error.errno) if error.errno else str(error)
            where = error.filename or folder
        else:
            is_full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
            reason, where = str(error), folder
        if is_full:
            return DiskFull(folder, reason)
        return cls(f"{where} cannot be used: {reason}.")


class DiskFull(DiskError):
    """This machine's disk is full; once there is space, the same works.

    Attributes:
        EXIT_STATUS: that of a training which ended for it (EX_IOERR of sysexits.h): a file that says so may not fit.
    """

    EXIT_STATUS: Final = 74

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"The disk of {folder} is full ({reason}): free some space, and segloop goes on by itself.")

    @staticmethod
    def is_behind(error: BaseException) -> bool:
        """Whether an error, or one that it came of, is that the disk is full. Libraries wrap that in errors of their own."""
        link: BaseException | None = error
        while link is not None:
            if isinstance(link, DiskFull) or (isinstance(link, OSError) and link.errno in _FULL):
                return True
            if os.strerror(errno.ENOSPC) in str(link):  # safetensors' has the text alone
                return True
            link = link.__cause__ or link.__context__
        return False

    @classmethod
    def check(cls, folder: Path) -> None:
        """Raise it where the disk of a folder has no space for a file worth mentioning."""
        free = shutil.disk_usage(folder).free
        if free < _FULL_BYTES:
            raise cls(folder, f"{free // 2**20} MiB are left")


class DatasetError(SegloopError):
    """A data set on disk is not what its layout says, or cannot be read."""


class TrainingError(SegloopError):
    """A training run failed; the text is its reason."""


class TrainerRefused(TrainingError):
    """The place where training runs does not accept segloop's credentials, or they lack a permission."""


class TrainingStopped(TrainingError):
    """Somebody asked a training to stop."""

    def __init__(self) -> None:
        super().__init__("Somebody stopped the training.")


class NothingToTrain(TrainingError):
    """A project without enough usable annotations for a training run."""


class TrainerUnavailable(SegloopError):
    """The place where training runs cannot be reached now; the same call may work later."""


class StackError(SegloopError):
    """A CloudFormation stack could not be changed; the text has its own reason."""


class QueueUnavailable(SegloopError):
    """Redis cannot be reached, so nothing can be queued now."""

    http_status = 503


class QueueRefusesWrites(QueueUnavailable):
    """Redis answers and takes no writes, so nothing can be queued now; `cause` and `fix` are the sentences of the text."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}. {fix}.")
        self.cause, self.fix = cause, fix


class Busy(SegloopError):
    """More requests than can be answered in time; the same request may work `retry_after_s` seconds later."""

    http_status = 503

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DeadlinePassed(SegloopError):
    """A request's time was over before its answer was ready."""

    http_status = 503


class ModelUnavailable(SegloopError):
    """The version that a project serves cannot be loaded now, so nothing can be predicted."""

    http_status = 503


class EngineError(SegloopError):
    """A trained network could not be turned into a model for another engine, or that model cannot be run."""


class ForeignJob(SegloopError):
    """A job in Redis that is not segloop's own, and therefore is not run."""


class JobNotFound(SegloopError):
    """A job id that the queue does not know (any more)."""

    http_status = 404
