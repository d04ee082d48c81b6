"""The api's errors, one tree. A room defines its own below `ApiError`; statuses stand in `problems.py` only."""

from __future__ import annotations

from typing import Any


class ApiError(Exception):
    """Base. `extra` joins the problem that the caller gets."""

    def __init__(self, detail: str | None = None, **extra: Any):
        super().__init__(detail or type(self).__name__)
        self.detail, self.extra = detail, extra


class NotSignedIn(ApiError):
    """No session, or one that has ended."""


class SignInFailed(ApiError):
    """Wrong login or password; which of the two is not said."""


class TooManyFailures(ApiError):
    """This login failed too often from this address lately."""


class RequestForged(ApiError):
    """A changing request without this session's CSRF token, or from another site."""


class NotPermitted(ApiError):
    """The role does not allow this."""


class NotATerminal(ApiError):
    """The request is not signed by an enrolled recorder's key."""


class KeyRevoked(ApiError):
    """The recorder's key was revoked: it must be enrolled again with a new one."""


class NoSuchRecorderKey(ApiError):
    """This recorder was never enrolled with this key."""


class CodeInvalid(ApiError):
    """The enrolment code is unknown, lapsed or used by another key."""


class ProofInvalid(ApiError):
    """The enrolment was not signed by the key it brings."""


class NoSuchRecorder(ApiError):
    """No such recorder, or none this person may see."""


class NoSuchAddress(ApiError):
    """This source has no such push address."""


class TooManyAddresses(ApiError):
    """The source has as many valid push addresses as it may."""


class AddressInvalid(ApiError):
    """The push address is unknown, lapsed or revoked; which of these is not said."""


class NoSuchRecording(ApiError):
    """No such recording, or none this person or recorder may see."""


class RecordingDiffers(ApiError):
    """The recording's id is already used by another recorder."""


class RecordingEmpty(ApiError):
    """Nothing of the recording is sealed yet."""


class NoSuchSegment(ApiError):
    """No such segment in this recording."""


class NoSuchViewing(ApiError):
    """No such viewing of this person's."""


class ViewingLapsed(ApiError):
    """The viewing's time is over."""


class ViewingOnly(ApiError):
    """The viewing was registered for watching, not for taking the original along."""


class RecordingOpen(ApiError):
    """The recording is not closed yet, so it is not whole."""


class RangeUnsatisfiable(ApiError):
    """The range begins behind the end; `size` is where that is."""


class NoSuchExport(ApiError):
    """No such export of this person's."""


class NoSuchJob(ApiError):
    """No dead job of this number."""


class VaultUnavailable(ApiError):
    """The vault did not answer: what was asked has no effect until it does."""


class NotPlayable(ApiError):
    """A file of a kind that no browser shows: sealed as it came, to be taken along."""


class NotRenderable(ApiError):
    """Nothing can be made of this that a browser plays; `codec` where it is known. It stays sealed as it came."""


class RenditionsUnavailable(ApiError):
    """The machine has no ffmpeg."""


class RenditionsBusy(ApiError):
    """Too many pieces wait to be made."""


class TakeoverDiffers(ApiError):
    """The closing does not say of the file what was said when it was opened."""


class SegmentsOutstanding(ApiError):
    """Not all of the file is sealed, as far as is known here."""


class WholeUnchecked(ApiError):
    """What is sealed of the file is still being read."""


class WholeDiffers(ApiError):
    """What is sealed is not the file that the terminal names."""


class UploadUnsaid(ApiError):
    """The request lacks a header that it needs, or has one that says nothing."""


class UploadProtocol(ApiError):
    """Neither tus 1.0.0 nor a known version of IETF resumable uploads, or another than the upload began with."""


class NoSuchUpload(ApiError):
    """The address has no such upload."""


class UploadGone(ApiError):
    """The upload was given up, has expired, or lost its tail; what was sealed of it stays."""


class UploadElsewhere(ApiError):
    """The offset is not where the upload stands: `offset` is."""


class UploadSuperseded(ApiError):
    """Another request has come for this upload since."""


class UploadTooLarge(ApiError):
    """Longer than was said, or than any upload may be."""


class UploadLengthDiffers(ApiError):
    """The length was given before, or is less than what came."""


class UploadComplete(ApiError):
    """All of it has come: nothing can be added."""


class UploadOfParts(ApiError):
    """What is put together of other uploads takes no bytes of its own."""


class PartsUnfit(ApiError):
    """Not partial uploads of this address, or not all complete."""


class ChecksumDiffers(ApiError):
    """The bytes do not have the checksum that came with them; they were not taken."""


class ChecksumTooLarge(ApiError):
    """More bytes in one request than can be checked before they are taken."""


class UploadTypeUnknown(ApiError):
    """The content type is not that of a piece of an upload."""


class TooManyUploads(ApiError):
    """The address has as many unfinished uploads as it may."""


class MediaUnknown(ApiError):
    """What was pushed is neither fragmented MP4 nor MPEG-TS nor a playlist."""


class MediaBroken(ApiError):
    """What was pushed broke its own format; what came before is sealed."""


class NoInit(ApiError):
    """Fragments without the init segment that they need."""


class NameTaken(ApiError):
    """Other bytes were pushed under a name before; these are kept beside them."""


class PushSuperseded(ApiError):
    """Another connection has begun to push to the same address."""


class PushTooMany(ApiError):
    """As many bodies as may be are open already, for this address or for all."""


class PushTooLarge(ApiError):
    """A segment or a playlist over its limit."""


class PushIdle(ApiError):
    """Nothing came for too long; what came before is sealed."""


class NoSuchFile(ApiError):
    """No such file, or none this person or source may see."""


class FileIdUnfit(ApiError):
    """The id is no UUIDv7."""


class FileDiffers(ApiError):
    """The id or the key is used already, for other bytes or with other things said of it."""


class FileVersionDiffers(ApiError):
    """The version that these bytes were to follow is not the newest: `version` is."""


class FileBusy(ApiError):
    """Other bytes are being sealed as the next version of this file just now."""


class FileEmpty(ApiError):
    """No byte came."""


class FileTooLarge(ApiError):
    """More than a file of its kind may have."""


class FileTruncated(ApiError):
    """The connection ended before the file did; nothing was taken."""


class FileSlow(ApiError):
    """Nothing came for too long, or the whole took too long; nothing was taken."""


class FileTypeUnfit(ApiError):
    """By its content it is not what a file of its kind may be."""


class DigestDiffers(ApiError):
    """The bytes do not have the digest that came with them; nothing was taken."""


class FormUnfit(ApiError):
    """Not the form that is asked for: one part `metadata`, and behind it one part `file`."""


class KeyMissing(ApiError):
    """A POST without an Idempotency-Key, or with one that is none."""


class FileUntold(ApiError):
    """Bytes for a file of which nothing was said before."""


class TooManyFiles(ApiError):
    """As many files as may be wait for their bytes."""


class TooManyVersions(ApiError):
    """The file has as many versions as it may."""


class SourceUnfit(ApiError):
    """A source of this kind brings no single files."""


class NoSuchHandover(ApiError):
    """No such handover of footage, or none of this source."""


class HandoverDiffers(ApiError):
    """The id is used already, with other things said."""


class ImportMixed(ApiError):
    """What the address has open came with another handover, or with none."""


class NoSuchRequest(ApiError):
    """No such request for footage, or none this person may see."""


class RequestDiffers(ApiError):
    """The id is used already, with other things said."""


class RequestAnswered(ApiError):
    """The request for footage was answered before."""


class CameraUnfit(ApiError):
    """Not a hall camera of this unit."""
