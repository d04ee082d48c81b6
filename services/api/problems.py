"""The one place where errors become RFC 9457 problems: status, English slug, Chinese sentence."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.responses import Response

from services.api import errors
from services.api.database import GONE
from services.vault.contract import http
from services.vault.contract.client import VaultRefused, VaultUnreachable

_log = logging.getLogger("quancheng.api")

PROBLEMS: dict[type[errors.ApiError], tuple[int, str, str]] = {
    errors.NotSignedIn: (401, "not-signed-in", "请先登录。"),
    errors.SignInFailed: (401, "sign-in-failed", "账号或密码不正确。"),
    errors.TooManyFailures: (429, "too-many-failures", "登录失败次数过多，请十五分钟后再试。"),
    errors.RequestForged: (403, "request-forged", "页面已失效，请刷新后重试。"),
    errors.NotPermitted: (403, "not-permitted", "您的岗位无权进行此操作。"),
    errors.NotATerminal: (401, "not-a-terminal", "请求没有已登记执法记录仪的有效签名。"),
    errors.KeyRevoked: (403, "key-revoked", "该执法记录仪的密钥已被吊销，须以新的密钥重新登记。"),
    errors.NoSuchRecorderKey: (404, "no-such-recorder-key", "该执法记录仪没有这一密钥。"),
    errors.CodeInvalid: (403, "code-invalid", "登记码无效、已过期或已被使用。"),
    errors.ProofInvalid: (422, "proof-invalid", "登记请求未由所提交的密钥签名。"),
    errors.NoSuchRecorder: (404, "no-such-recorder", "没有这台执法记录仪。"),
    errors.NoSuchAddress: (404, "no-such-address", "该来源没有这一推流地址。"),
    errors.TooManyAddresses: (409, "too-many-addresses", "该来源有效的推流地址过多，请先吊销不用的。"),
    errors.AddressInvalid: (403, "address-invalid", "推流地址无效、已过期或已被吊销。"),
    errors.MediaUnknown: (415, "media-unknown", "推来的不是分片 MP4、MPEG-TS 或播放列表。"),
    errors.MediaBroken: (400, "media-broken", "推来的内容不合其格式，此前完整的片段已经封存。"),
    errors.NoInit: (412, "no-init", "还没有收到这一路的初始化段。"),
    errors.NameTaken: (409, "name-taken", "同名片段已经封存且内容不同；新内容已并存封存，未替换原内容。"),
    errors.PushSuperseded: (409, "push-superseded", "同一地址已有新的连接，此连接结束。"),
    errors.PushTooMany: (429, "push-too-many", "同时推流的连接过多，请稍后再试。"),
    errors.PushTooLarge: (413, "push-too-large", "推来的片段超过允许的大小。"),
    errors.PushIdle: (408, "push-idle", "长时间没有收到数据，连接结束；此前完整的片段已经封存。"),
    errors.UploadUnsaid: (400, "upload-header", "上传请求缺少必需的标头，或标头的内容无效。"),
    errors.UploadProtocol: (412, "upload-protocol", "请按 tus 1.0.0 或所支持版本的 IETF 断点续传协议上传。"),
    errors.NoSuchUpload: (404, "no-such-upload", "该地址没有这一上传。"),
    errors.UploadGone: (410, "upload-gone", "该上传已撤销、过期或失效；已封存的部分仍然保留。"),
    errors.UploadElsewhere: (409, "upload-offset", "续传位置与服务器已收到的不符，请先查询再继续。"),
    errors.UploadSuperseded: (409, "upload-superseded", "同一上传已有新的请求，此请求结束。"),
    errors.UploadTooLarge: (413, "upload-too-large", "上传的内容超过所声明或所允许的大小。"),
    errors.UploadLengthDiffers: (400, "upload-length", "上传的总长度与先前声明的或已收到的不符。"),
    errors.UploadComplete: (400, "upload-complete", "该上传已经完成，不能再追加。"),
    errors.UploadOfParts: (403, "upload-of-parts", "由分段合成的上传不能追加内容。"),
    errors.PartsUnfit: (400, "parts-unfit", "所列的不全是该地址已完成的分段上传。"),
    errors.ChecksumDiffers: (460, "checksum-mismatch", "内容与所附的校验值不符，未予接收。"),
    errors.ChecksumTooLarge: (413, "checksum-too-large", "带校验值的一次请求内容过大，请分成较小的块。"),
    errors.UploadTypeUnknown: (415, "upload-type", "请求的内容类型不是上传的片段。"),
    errors.TooManyUploads: (429, "too-many-uploads", "该地址未完成的上传过多，请先完成或撤销。"),
    errors.TakeoverDiffers: (409, "takeover-differs", "结束声明与接管时所说的文件不符，未予关闭。"),
    errors.SegmentsOutstanding: (409, "segments-outstanding", "还有片段没有封存，不能关闭。"),
    errors.WholeUnchecked: (503, "whole-unchecked", "正在从存储中重读并核对整个文件，请稍候再试。"),
    errors.WholeDiffers: (409, "whole-differs", "已封存的片段合起来不是所说的整个文件，未予关闭。"),
    errors.NotPlayable: (409, "not-playable", "这类文件不能在此查看，请下载原始文件。"),
    errors.NotRenderable: (422, "not-renderable", "这段媒体不能在此播放，已按原样封存，请下载原始文件。"),
    errors.RenditionsUnavailable: (501, "renditions-unavailable", "服务器没有转码程序 ffmpeg，请下载原始文件。"),
    errors.RenditionsBusy: (429, "renditions-busy", "同时转码的画面过多，请稍后再试。"),
    errors.NoSuchRecording: (404, "no-such-recording", "没有这条音像记录。"),
    errors.RecordingDiffers: (409, "recording-differs", "该编号已被另一台执法记录仪使用。"),
    errors.RecordingEmpty: (409, "nothing-sealed", "音像记录还没有任何已封存的片段，不能导出。"),
    errors.NoSuchSegment: (404, "no-such-segment", "没有这一片段。"),
    errors.NoSuchViewing: (404, "no-such-viewing", "没有这次查看登记。"),
    errors.ViewingLapsed: (403, "viewing-lapsed", "本次查看时限已到，请重新登记用途。"),
    errors.ViewingOnly: (403, "viewing-only", "本次登记只供观看，下载原始文件须另行登记用途。"),
    errors.RecordingOpen: (409, "recording-open", "记录尚未封存，封存后才能下载或查看原始文件。"),
    errors.RangeUnsatisfiable: (416, "range-unsatisfiable", "所请求的范围超出文件末尾。"),
    errors.NoSuchExport: (404, "no-such-export", "没有这次导出登记。"),
    errors.NoSuchJob: (404, "no-such-job", "没有这一项待处理的后台任务。"),
    errors.NoSuchFile: (404, "no-such-file", "没有这个文件。"),
    errors.FileIdUnfit: (422, "file-id", "文件编号须为 UUIDv7。"),
    errors.FileDiffers: (409, "file-differs", "该编号已用于其他内容；要存为新版本，请以 If-Match 指明所接续的版本。"),
    errors.FileVersionDiffers: (412, "file-version", "所接续的不是最新版本，请先查看再提交。"),
    errors.FileBusy: (409, "file-busy", "该文件的下一版本正在封存另一份内容，请稍后再试。"),
    errors.FileEmpty: (400, "file-empty", "没有收到文件内容。"),
    errors.FileTooLarge: (413, "file-too-large", "文件超过此类允许的大小；更大的请用断点续传上传为音像记录。"),
    errors.FileTruncated: (400, "file-truncated", "文件没有传完，未予接收。"),
    errors.FileSlow: (408, "file-slow", "文件在规定时间内没有传完，未予接收。"),
    errors.FileTypeUnfit: (415, "file-type", "文件内容不是此类允许的格式。"),
    errors.DigestDiffers: (400, "digest-mismatch", "文件内容与所附的摘要不符，未予接收。"),
    errors.FormUnfit: (400, "form-unfit", "表单须先有 metadata（JSON），后有 file，各一项。"),
    errors.KeyMissing: (400, "idempotency-key", "请求须带 Idempotency-Key（1 至 255 个可见字符）。"),
    errors.FileUntold: (404, "file-untold", "请先说明这个文件是什么（种类、标题等），再传内容。"),
    errors.TooManyFiles: (429, "too-many-files", "等待内容的文件过多，请先传完。"),
    errors.TooManyVersions: (409, "too-many-versions", "该文件的版本已达上限。"),
    errors.SourceUnfit: (403, "source-unfit", "该类来源的地址不能送单个文件。"),
    errors.NoSuchHandover: (422, "no-such-handover", "没有这次移交登记，或不属于该来源。"),
    errors.HandoverDiffers: (409, "handover-differs", "该编号的移交已登记为其他内容。"),
    errors.ImportMixed: (409, "import-mixed", "该地址正在接收另一来历的记录，请等它封存后再导入。"),
    errors.NoSuchRequest: (404, "no-such-request", "没有这次调取。"),
    errors.RequestDiffers: (409, "request-differs", "该编号的调取已登记为其他内容。"),
    errors.RequestAnswered: (409, "request-answered", "该调取已经有了答复。"),
    errors.CameraUnfit: (422, "camera-unfit", "所选的不是本单位登记的服务大厅摄像机。"),
    errors.VaultUnavailable: (503, "vault-unavailable", "证据库暂不可用，请稍后重试。"),
}


def of(error: errors.ApiError) -> Response:
    status, slug, title = PROBLEMS[type(error)]
    headers = {"retry-after": "2"} if status in (429, 503) else {}
    if status == 416:
        headers["content-range"] = f"bytes */{error.extra['size']}"
    return http.problem(status, slug, title, detail=error.detail, headers=headers, **error.extra)


def install(app: FastAPI) -> None:
    http.install(app, unavailable=GONE)
    app.add_exception_handler(errors.ApiError, _api_error)
    app.add_exception_handler(VaultRefused, _refused)
    app.add_exception_handler(VaultUnreachable, _unreachable)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, errors.ApiError)
    return of(error)


async def _refused(_: Request, error: Exception) -> Response:
    """What the vault refuses, the caller hears in the vault's words; that it refused *us* is our fault."""
    assert isinstance(error, VaultRefused)
    told = error.problem
    if told.status in (401, 403):
        _log.error("the vault refused this service: %s", told.slug)
        return of(errors.VaultUnavailable())
    extra = told.model_extra or {}
    headers = {"retry-after": str(extra["retry_after"])} if "retry_after" in extra else {}
    if told.status == 416:
        headers["content-range"] = f"bytes */{extra.get('size', '*')}"
    return http.problem(told.status, told.slug, told.title, detail=told.detail, headers=headers, **extra)


async def _unreachable(_: Request, error: Exception) -> Response:
    _log.warning("the vault did not answer: %s", error)
    return of(errors.VaultUnavailable())
